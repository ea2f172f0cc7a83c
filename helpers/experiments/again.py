"""One picture of a case drawn again, alone: the items, settings and code of the notebook that drew them all.

    free = Again("free")
    item = free.items("dga_free")[3]
    free.draw("dga_free", item).trace

Guidance amplifies rounding, so such a picture may differ from the one that was drawn among others.
"""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import torch

from helpers import params
from helpers.backbones.backbone import Backbone
from helpers.backbones.load import load_backbone
from helpers.benchmarks.base import Item, load_benchmark
from helpers.experiments import combinations, dca, dga, dma, free, guided_factors, layout, sbpc
from helpers.experiments.best_of import draw_best
from helpers.factor_graph.factor import Conditions
from helpers.guidance.cfg import CFG
from helpers.params import Case, Params
from helpers.perception.segmenter import Segmenter
from helpers.pipeline.draw import draw_benchmark
from helpers.pipeline.samples import Samples

VARIANT = ("caption", "source")  # what of a case says in which words, or of which pictures, the benchmark's items are


class Again:
    """The cases of an experiment. name: one of NAMES, others keep no picture. profile: None for that of params.yaml, as
    the file is at every call."""

    def __init__(self, name: str, profile: str | None = None):
        if name not in NAMES:
            raise ValueError(f"pictures of {name!r} cannot be drawn again: use one of {', '.join(NAMES)}")
        self.name, self.profile = name, profile

    def baseline(self, case: str) -> str:
        """What a case is compared with; ValueError for one that params.yaml does not have."""
        return self._case(case)[1].baseline

    def items(self, case: str) -> Sequence[Item]:
        """Its benchmark's items, in the order of its rows."""
        settings, of_case = self._case(case)
        variant = {key: getattr(of_case, key) for key in VARIANT if hasattr(of_case, key)}
        benchmark = getattr(of_case, "benchmark", None) or settings.experiment.benchmark
        return load_benchmark(benchmark).items(getattr(of_case, "split", "test"), **variant)

    def draw(self, case: str, item: Item) -> Samples:
        """The picture of one item, with its Trace."""
        settings, of_case = self._case(case)
        return DRAW[self.name](settings, of_case, [item], _backbone(settings.sampling.backbone))

    def _case(self, name: str) -> tuple[Params, Case]:
        settings = _settings(self.name, self.profile, params.PATH.stat().st_mtime_ns)
        return settings, layout.chosen(settings, name) if self.name == "layout" else settings.case(name)


@cache
def _settings(name: str, profile: str | None, written: int) -> Params:
    """written: when params.yaml was, so that it is read once after every change, which takes a second."""
    return params.load(EXPERIMENTS[name].Experiment, profile)


@cache
def _backbone(name: str) -> Backbone:
    return load_backbone(name)


def _dga(settings: Params, case: dga.LayoutCase, items: Sequence[Item], backbone: Backbone) -> Samples:
    segmenter = Segmenter.load(settings.experiment.guide, backbone.device)
    methods, watching = (partial(of, settings, case, segmenter=segmenter) for of in (dga.guidance_of, dga.watching))
    return draw_benchmark(settings, backbone, items, methods, 1, watching if case.method is None else None)


def _dma(settings: Params, case: dma.DragCase, items: Sequence[Item], backbone: Backbone) -> Samples:
    nets = dma.load_nets(settings, backbone.device)
    return draw_benchmark(settings, backbone, items, partial(dma.guidance_of, settings, case, nets=nets), 1)


def _dca(settings: Params, case: dca.ConceptCase, items: Sequence[Item], backbone: Backbone) -> Samples:
    nets = dca.load_nets(settings, backbone.device)
    methods, watching = (partial(of, settings, case, nets=nets) for of in (dca.guidance_of, dca.watching))
    watch = watching if case.method is None else None
    return draw_best(
        lambda part, shown: draw_benchmark(settings, backbone, part, methods, shown, watch),
        dca.verifier(settings, case, items, nets),
        items,
        case.tries,
        1,
    )


def _layout(settings: Params, case: layout.LayoutCase, items: Sequence[Item], backbone: Backbone) -> Samples:
    segmenter = Segmenter.load(settings.experiment.guide, backbone.device)
    methods = partial(layout.guidance_of, settings, case, segmenter=segmenter)
    return draw_benchmark(settings, backbone, items, methods, 1, layout.watching(methods))


def _combinations(settings: Params, case: combinations.CombinationCase, items, backbone: Backbone) -> Samples:
    """Its source is inverted here, alone."""
    modules = combinations.load_modules(settings.name, backbone.device)
    return draw_benchmark(settings, backbone, items, partial(combinations.guidance_of, case, modules=modules), 1)


def _sbpc(settings: Params, case: sbpc.SbpcCase, items: Sequence[Item], backbone: Backbone) -> Samples:
    return sbpc.draw_case(settings, case, items, sbpc.load_models(settings), 1)


def _guided(settings: Params, case: guided_factors.GuidedCase, items: Sequence[Item], backbone: Backbone) -> Samples:
    """The picture alone, without the map that it was drawn from."""
    models = guided_factors.load_models(settings)
    if case.within == "picture":
        methods = partial(guided_factors.guidance_of, settings, case, segmenter=models.segmenter)
        return draw_benchmark(settings, backbone, items, methods, 1)
    maps, _ = guided_factors.draw_maps(settings, case, items, models.planner)
    given = Conditions(maps={guided_factors.MAP: torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2) / 255})
    return draw_benchmark(settings, models.painter, items, lambda some: [given, CFG(settings.sampling.cfg_scale)], 1)


EXPERIMENTS = {
    "dga": dga,
    "dma": dma,
    "dca": dca,
    "combinations": combinations,
    "layout": layout,
    "sbpc": sbpc,
    "free": free,
    "guided_factors": guided_factors,
}
DRAW = {
    "dga": _dga,
    "dma": _dma,
    "dca": _dca,
    "combinations": _combinations,
    "layout": _layout,
    "sbpc": _sbpc,
    "free": _layout,
    "guided_factors": _guided,
}
NAMES = tuple(DRAW)
