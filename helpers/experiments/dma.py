"""The experiment `dma`: drags, by dense motion alignment."""

from collections.abc import Sequence
from dataclasses import dataclass

from helpers.experiments.settings import recurrence, strength
from helpers.experiments.sources import Sources
from helpers.guidance import Guidance, Window
from helpers.guidance.dma import DMA, FIELDS
from helpers.miniature.drags import Case as Drag
from helpers.params import DragCase, Params
from helpers.paths import weights
from helpers.perception.clicks import ClickSegmenter
from helpers.perception.disturbed import DisturbedClicks, DisturbedFlow
from helpers.perception.features import Features
from helpers.perception.flow import Flow


@dataclass
class Nets:
    """What DMA looks through. sources: the drags' once they are inverted; without, every run inverts its own."""

    flow: Flow
    clicks: ClickSegmenter
    features: Features
    sources: Sources | None = None


def load_nets(params: Params, device="cpu") -> Nets:
    block = params.dma
    return Nets(
        Flow.load(weights(block.flow), device),
        ClickSegmenter.load(weights(block.clicks), device),
        Features.load(weights(block.features), device),
    )


def guidance_of(params: Params, case: DragCase, drags: Sequence[Drag], nets: Nets) -> list[Guidance]:
    """The guidance of a case: DMA, without CFG, as the sources are inverted.

    Without a weight it starts from the inverted latents and watches: nothing acts and no background is kept.
    """
    acts = float(case.weight is not None)
    dma = DMA(
        DisturbedFlow(nets.flow, case.flow_error) if case.flow_error else nets.flow,
        DisturbedClicks(nets.clicks, case.mask_grow, case.mask_shift),
        nets.features,
        [drag.drag for drag in drags],
        nets.sources and nets.sources.of(drags),
        weight=1.0 if case.weight is None else case.weight,
        displacement_weight=case.displacement_weight,
        appearance_weight=case.appearance_weight,
        semantic_weight=case.semantic_weight,
        field=FIELDS[case.field],
        blend=Window(0.0, acts),
        window=Window(0.0, acts * case.window),
        strength=strength(params.dma.strength),
        recurrence=recurrence(params.dma.recurrence),
    )
    return [dma]
