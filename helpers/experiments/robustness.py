"""The experiment `robustness`: one knob of one module turned, everything else as in its experiment's case `full`.

A `Setup` is all that a run is made of; a knob is a function (setup, value) -> setup.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from helpers.backbones import Backbone
from helpers.conditions import Layout
from helpers.experiments import dca, dga, dma
from helpers.experiments.sources import invert_sources
from helpers.guidance import Guidance
from helpers.miniature.benchmark import load_captioned
from helpers.miniature.drags import load_drags
from helpers.params import Case, Curve, Params
from helpers.paths import weights
from helpers.perception.disturbed import DisturbedDetector, DisturbedSegmenter
from helpers.perception.segmenter import Segmenter

EXPERIMENT = {"layout": dga, "text": dca, "drag": dma}
BLOCK = {"layout": "dga", "text": "dca", "drag": "dma"}
SMALLEST = 0.1  # side of a disturbed box, in sides of the picture


@dataclass(frozen=True)
class Setup:
    """scenes: what is scored; asked: what the guide is told, the same cases unless a knob changed them."""

    module: str
    params: Params
    case: Case
    scenes: tuple
    asked: tuple
    nets: object

    def guidance_of(self, part: Sequence) -> list[Guidance]:
        """The guidance of some of the scenes."""
        place = {scene.id: scene for scene in self.asked}
        asked = [place[scene.id] for scene in part]
        return EXPERIMENT[self.module].guidance_of(self.params, self.case, asked, self.nets)


def setup(params: Params, curve: Curve, backbone: Backbone) -> Setup:
    """The module as in the case `full` of its experiment, on the first test cases; sources are inverted here, once."""
    n, device = params.profile.curve, backbone.device
    load = {
        "layout": lambda: (load_captioned("test", "short"), Segmenter.load(weights(params.dga.guide), device)),
        "text": lambda: (load_captioned("test", "long"), dca.load_nets(params, device)),
        "drag": lambda: (load_drags("test"), dma.load_nets(params, device)),
    }
    scenes, nets = load[curve.module]()
    scenes = scenes[:n]
    if curve.module == "drag":
        nets = replace(nets, sources=invert_sources(params, backbone, scenes))
    case = getattr(params, BLOCK[curve.module]).case("full")
    return Setup(curve.module, params, case, scenes, scenes, nets)


def unguided(run: Setup) -> Setup:
    """The baseline: as in the case `none` of the module's experiment."""
    return replace(run, case=getattr(run.params, BLOCK[run.module]).case("none"))


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
    return replace(run, case=run.case.model_copy(update={"window": share}))


def with_strength(run: Setup, factor: float) -> Setup:
    """The strength times `factor`."""
    name = BLOCK[run.module]
    block = getattr(run.params, name)
    strength = block.strength.model_copy(update={"scale": factor * block.strength.scale})
    return replace(run, params=run.params.model_copy(update={name: block.model_copy(update={"strength": strength})}))


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
