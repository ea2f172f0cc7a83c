"""The experiment `robustness`: one knob of one module turned, everything else as in its experiment's case `full`.

A `Setup` is all that a run is made of; a knob is a function (setup, value) -> setup.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from helpers import params
from helpers.backbones.backbone import Backbone
from helpers.benchmarks.base import load_benchmark
from helpers.conditions import Layout
from helpers.experiments import dca, dga, dma
from helpers.experiments.sources import invert_sources
from helpers.params import Block, Case, Name, Number, Params
from helpers.perception.disturbed import DisturbedDetector, DisturbedSegmenter
from helpers.perception.segmenter import Segmenter
from helpers.sampling.hooks import EnergyGuidance, Guidance

EXPERIMENTS = {"layout": dga, "text": dca, "drag": dma}
SMALLEST = 0.1  # side of a disturbed box, in sides of the picture


class Curve(Block):
    """One knob of one module turned through `values`, everything else as in the case `full` of its experiment."""

    module: Literal["layout", "text", "drag"]
    knob: Literal["guide", "mask", "layout_noise", "layout_missing", "window", "strength", "seed"]
    values: Annotated[tuple[Number, ...], Field(min_length=2)]


class Experiment(Block):
    block: ClassVar[str] = "robustness"
    cases: dict[Name, Curve]


@dataclass(frozen=True)
class Setup:
    """scenes: what is scored; asked: what the guide is told, the same cases unless a knob changed them. strength: times
    that of every method."""

    module: str
    params: Params
    case: Case
    scenes: tuple
    asked: tuple
    nets: object
    strength: float = field(default=1.0)

    def guidance_of(self, part: Sequence) -> list[Guidance]:
        """The guidance of some of the scenes."""
        place = {scene.id: scene for scene in self.asked}
        asked = [place[scene.id] for scene in part]
        made = EXPERIMENTS[self.module].guidance_of(self.params, self.case, asked, self.nets)
        return [_stronger(method, self.strength) for method in made]


def _stronger(method: Guidance, factor: float) -> Guidance:
    if not isinstance(method, EnergyGuidance):
        return method
    return replace(method, strength=replace(method.strength, scale=factor * method.strength.scale))


def setup(profile: str, curve: Curve, backbone: Backbone) -> Setup:
    """The module as in the case `full` of its experiment, on the first test cases; sources are inverted here, once."""
    module = EXPERIMENTS[curve.module]
    own, device = params.load(module.Experiment, profile), backbone.device
    load = {
        "layout": lambda: Segmenter.load(own.experiment.guide, device),
        "text": lambda: dca.load_nets(own, device),
        "drag": lambda: dma.load_nets(own, device),
    }
    nets = load[curve.module]()
    words = {"caption": "long"} if curve.module == "text" else {}
    scenes = load_benchmark(own.experiment.benchmark).items("test", **words)[: own.profile.curve]
    if curve.module == "drag":
        nets = replace(nets, sources=invert_sources(own, backbone, scenes))
    return Setup(curve.module, own, own.case("full"), scenes, scenes, nets)


def unguided(run: Setup) -> Setup:
    """The baseline: as in the case `none` of the module's experiment."""
    return replace(run, case=run.params.case("none"))


def with_guide(run: Setup, error: float) -> Setup:
    """The model whose gradient steers, or whose boxes it is cut by, is wrong: see `helpers.perception.disturbed`."""
    if run.module == "drag":
        return replace(run, case=run.case.model_copy(update={"flow_error": error}))
    if run.module == "layout":
        return replace(run, nets=DisturbedSegmenter(run.nets, error))
    return replace(run, nets=replace(run.nets, detector=DisturbedDetector(run.nets.detector, error)))


def with_mask(run: Setup, pixels: float) -> Setup:
    """The click segmenter's masks grow, or shrink where negative."""
    return replace(run, case=run.case.model_copy(update={"mask_grow": int(pixels)}))


def with_layout_noise(run: Setup, amount: float) -> Setup:
    """Every side of every box is moved by `amount` root mean square, in sides of the picture."""

    def disturbed(number, layout):
        rng = np.random.default_rng([1, number])
        regions = []
        for region in layout.regions:
            box = np.clip(np.array(region.box) + amount * rng.standard_normal(4), 0, 1)
            low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
            low = np.minimum(low, 1 - SMALLEST)
            high = np.maximum(high, low + SMALLEST)
            regions.append(region.model_copy(update={"box": (*low.tolist(), *high.tolist())}))
        return Layout(prompt=layout.prompt, regions=tuple(regions))

    return _asked(run, disturbed)


def with_layout_missing(run: Setup, share: float) -> Setup:
    """Every region is left out with this probability; of a layout at least one stays."""

    def fewer(number, layout):
        kept = np.random.default_rng([2, number]).random(len(layout.regions)) >= share
        kept[0] |= not kept.any()
        regions = tuple(region for region, k in zip(layout.regions, kept, strict=True) if k)
        return Layout(prompt=layout.prompt, regions=regions)

    return _asked(run, fewer)


def with_window(run: Setup, share: float) -> Setup:
    """The first `share` of the steps is guided."""
    return replace(run, case=run.case.stating(window={"start": 0.0, "stop": share}))


def with_strength(run: Setup, factor: float) -> Setup:
    """The strength times `factor`."""
    return replace(run, strength=factor)


def with_seed(run: Setup, number: float) -> Setup:
    """Other noise for the same prompts."""
    scenes = tuple(scene.model_copy(update={"seed": scene.seed + 100_000 * int(number)}) for scene in run.scenes)
    return replace(run, scenes=scenes, asked=scenes)


KNOBS = {
    "guide": with_guide,
    "mask": with_mask,
    "layout_noise": with_layout_noise,
    "layout_missing": with_layout_missing,
    "window": with_window,
    "strength": with_strength,
    "seed": with_seed,
}


def _asked(run: Setup, change) -> Setup:
    scenes = [
        scene.model_copy(update={"layout": change(number, scene.layout)}) for number, scene in enumerate(run.scenes)
    ]
    return replace(run, asked=tuple(scenes))
