"""The experiment `dma`: drags, by dense motion alignment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from helpers import params
from helpers.benchmarks.base import DragItem
from helpers.experiments import methods
from helpers.experiments.sources import Sources
from helpers.guidance.dma import DMA
from helpers.params import Guide, MethodCase, Params, Weight, Whole
from helpers.perception.clicks import ClickSegmenter
from helpers.perception.disturbed import DisturbedClicks, DisturbedFlow
from helpers.perception.features import Features
from helpers.perception.flow import Flow
from helpers.sampling.hooks import Guidance, Window

Grown = Annotated[int, Field(strict=True, ge=-8, le=8)]


class DragCase(MethodCase):
    """source: drags of rendered scenes, or of pictures that mini-sd drew. mask_grow, mask_shift: an error put into the
    click segmenter's masks, in pixels (shrunk where negative). flow_error: one put into the estimated flow, root mean
    square in pixels. Without a method the inverted source is drawn again."""

    source: Literal["rendered", "drawn"] = "rendered"
    mask_grow: Grown = 0
    mask_shift: tuple[Whole, Whole] = (0, 0)
    flow_error: Weight = 0.0


class Experiment(params.Experiment):
    """flow, clicks, features: RAFT, the click segmenter and the dense features."""

    block: ClassVar[str] = "dma"
    flow: Guide
    clicks: Guide
    features: Guide
    cases: dict[params.Name, DragCase]


@dataclass
class Nets:
    """What DMA looks through. sources: the drags' once they are inverted; without, every run inverts its own."""

    flow: Flow
    clicks: ClickSegmenter
    features: Features
    sources: Sources | None = None


def load_nets(params: Params[Experiment], device="cpu") -> Nets:
    block = params.experiment
    return Nets(
        Flow.load(block.flow, device), ClickSegmenter.load(block.clicks, device), Features.load(block.features, device)
    )


def guidance_of(params: Params[Experiment], case: DragCase, drags: Sequence[DragItem], nets: Nets) -> list[Guidance]:
    """The guidance of a case: DMA, without CFG, as the sources are inverted.

    Without a method it starts from the inverted latents and watches: nothing acts and no background is kept.
    """
    given = {
        "flow": DisturbedFlow(nets.flow, case.flow_error) if case.flow_error else nets.flow,
        "clicks": DisturbedClicks(nets.clicks, case.mask_grow, case.mask_shift),
        "features": nets.features,
        "drags": [drag.drag for drag in drags],
        "trajectory": nets.sources and nets.sources.of(drags),
    }
    if case.method is None:
        return [DMA(**given, blend=Window(0.0, 0.0), window=Window(0.0, 0.0))]
    return [methods.make(stated, given) for stated in case.methods]
