"""A case of params.yaml drawn on benchmark cases: what the notebooks of the experiment `dga` call."""

from collections.abc import Sequence

import torch
from joblib import Parallel, delayed, parallel_config
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


def draw_benchmark(
    params: Params, case: Case, scenes: Sequence[Scene], backbone: Backbone, segmenter, showcase: int = 0
) -> Drawn:
    """Draw the scenes batch by batch; an image's seconds, NFE and peak memory are those of its batch.

    showcase: how many of the first scenes are traced, at most one batch; the guide then watches an unguided case, too.
    On a CPU every core draws batches of its own, with one thread each: convolutions this small hardly gain from more.
    """
    size = params.profile.batch
    parts = [scenes[first : first + size] for first in range(0, len(scenes), size)]
    workers = min(torch.get_num_threads(), len(parts)) if backbone.device.type == "cpu" else 1
    jobs = (
        delayed(_draw_batch)(params, case, part, backbone, segmenter, 0 if n else showcase)
        for n, part in enumerate(parts)
    )
    with parallel_config("loky", inner_max_num_threads=1):
        done = Parallel(workers, return_as="generator")(jobs)
        batches = list(tqdm(done, desc="batches", total=len(parts)))
    return Drawn(
        torch.cat([batch.images for batch in batches]),
        [row for batch in batches for row in batch.rows],
        [warning for batch in batches for warning in batch.warnings],
        batches[0].trace,
    )


def _draw_batch(params: Params, case: Case, scenes: Sequence[Scene], backbone, segmenter, showcase: int) -> Drawn:
    trace = Trace(range(showcase)) if showcase else None
    methods = watching if trace and case.layout is None else guidance_of
    run = draw(params, backbone, scenes, methods(params, case, scenes, segmenter), trace)
    cost = {"seconds": run.cost.seconds / len(scenes), "nfe": run.cost.nfe, "peak_mb": run.cost.peak_mb}
    rows = [
        {"id": scene.id, "seed": scene.seed, **cost, "eff_cfg": scale}
        for scene, scale in zip(scenes, run.eff_cfg.tolist(), strict=True)
    ]
    return Drawn(run.images, rows, run.warnings, trace)
