"""The experiment `dga`: layouts, by dense geometry alignment."""

from collections.abc import Sequence

from helpers.conditions import Layout
from helpers.experiments.settings import recurrence, strength
from helpers.guidance import CFG, Guidance, Window
from helpers.guidance.dga import DGA
from helpers.miniature.benchmark import Case as Scene
from helpers.params import LayoutCase, Params

KEEP = {"boxes": Layout.boxes_only, "masks": Layout.masks_only}


def guidance_of(params: Params, case: LayoutCase, scenes: Sequence[Scene], segmenter) -> list[Guidance]:
    """The guidance of a case: CFG, and DGA on the scenes' layouts unless the case is unguided."""
    cfg = CFG(params.sampling.cfg_scale)
    if case.layout is None:
        return [cfg]
    return [cfg, guidance_on(params, case, [KEEP[case.layout](scene.layout) for scene in scenes], segmenter)]


def guidance_on(params: Params, case: LayoutCase, layouts: Sequence[Layout], segmenter) -> DGA:
    """DGA as a case sets it, on any layouts."""
    return DGA(
        segmenter,
        layouts,
        weight=case.weight,
        coverage_weight=case.coverage_weight,
        size_weight=case.size_weight,
        distance_weight=case.distance_weight,
        window=Window(0.0, case.window),
        strength=strength(params.dga.strength),
        recurrence=recurrence(params.dga.recurrence),
    )


def watching(params: Params, case: LayoutCase, scenes: Sequence[Scene], segmenter) -> list[Guidance]:
    """The baseline as the guide sees it: DGA with an empty window never acts, but a Trace records masks and losses."""
    layouts = [KEEP[case.layout or "boxes"](scene.layout) for scene in scenes]
    return [CFG(params.sampling.cfg_scale), DGA(segmenter, layouts, window=Window(0.0, 0.0))]
