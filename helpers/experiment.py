"""A case of params.yaml drawn on benchmark cases: what the notebooks of the experiment `dga` call."""

from collections.abc import Sequence

import torch
from tqdm import tqdm

from helpers.backbones import Backbone
from helpers.conditions import Layout
from helpers.drawn import Drawn
from helpers.guidance import CFG, DGA, STRENGTHS, Guidance, Recurrence, Window
from helpers.miniature.benchmark import Case as Scene
from helpers.params import Case, Params
from helpers.sampling import Run, sample
from helpers.trace import Trace

KEEP = {"boxes": Layout.boxes_only, "masks": Layout.masks_only}


def guidance_of(params: Params, case: Case, scenes: Sequence[Scene], segmenter) -> list[Guidance]:
    """The guidance of a case: CFG, and DGA on the scenes' layouts unless the case is unguided."""
    cfg = CFG(params.sampling.cfg_scale)
    if case.layout is None:
        return [cfg]
    rule = params.dga.strength
    dga = DGA(
        segmenter,
        [KEEP[case.layout](scene.layout) for scene in scenes],
        weight=case.weight,
        coverage_weight=case.coverage_weight,
        size_weight=case.size_weight,
        distance_weight=case.distance_weight,
        window=Window(0.0, case.window),
        strength=STRENGTHS[rule.rule](rule.scale, rule.clip),
        recurrence=Recurrence(params.dga.recurrence.times, Window(0.0, params.dga.recurrence.window)),
    )
    return [cfg, dga]


def watching(params: Params, case: Case, scenes: Sequence[Scene], segmenter) -> list[Guidance]:
    """The baseline as the guide sees it: DGA with an empty window never acts, but a Trace records masks and losses."""
    layouts = [KEEP[case.layout or "boxes"](scene.layout) for scene in scenes]
    return [CFG(params.sampling.cfg_scale), DGA(segmenter, layouts, window=Window(0.0, 0.0))]


def draw(
    params: Params, backbone: Backbone, scenes: Sequence[Scene], methods: Sequence[Guidance], trace: Trace | None = None
) -> Run:
    """One image per scene, from the scene's own prompt and seed."""
    return sample(
        backbone,
        [scene.prompt for scene in scenes],
        methods,
        steps=params.profile.steps,
        seeds=[scene.seed for scene in scenes],
        batch=params.profile.batch,
        trace=trace,
    )


def draw_benchmark(params: Params, case: Case, scenes: Sequence[Scene], backbone: Backbone, segmenter) -> Drawn:
    """Draw the scenes batch by batch; an image's seconds, NFE and peak memory are those of its batch."""
    images, rows, warnings = [], [], []
    size = params.profile.batch
    for first in tqdm(range(0, len(scenes), size), desc="batches"):
        part = scenes[first : first + size]
        run = draw(params, backbone, part, guidance_of(params, case, part, segmenter))
        images.append(run.images)
        warnings += run.warnings
        seconds, eff_cfg = run.cost.seconds / len(part), run.eff_cfg.tolist()
        for scene, scale in zip(part, eff_cfg, strict=True):
            cost = {"seconds": seconds, "nfe": run.cost.nfe, "peak_mb": run.cost.peak_mb, "eff_cfg": scale}
            rows.append({"id": scene.id, "seed": scene.seed, **cost})
    return Drawn(torch.cat(images), rows, warnings)
