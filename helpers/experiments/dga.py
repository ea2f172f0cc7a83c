"""The experiment `dga`: layouts, by dense geometry alignment."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from helpers import params
from helpers.benchmarks.base import LayoutItem
from helpers.conditions import Layout
from helpers.experiments import methods
from helpers.guidance.cfg import CFG
from helpers.guidance.dga import DGA
from helpers.params import Block, Guide, MethodCase, Params, Weight
from helpers.sampling.hooks import Guidance, Window

KEEP = {"boxes": Layout.boxes_only, "masks": Layout.masks_only}


class LayoutCase(MethodCase):
    """layout: what of the benchmark's layout is used."""

    layout: Literal["boxes", "masks"] = "boxes"


class Sweep(Block):
    """Strengths that are tried on the dev split, with everything else as in `case`."""

    scales: Annotated[tuple[Weight, ...], Field(min_length=1)]
    case: str = "full"


class Experiment(params.Experiment):
    """guide: the segmenter whose gradient steers."""

    block: ClassVar[str] = "dga"
    guide: Guide
    sweep: Sweep
    cases: dict[params.Name, LayoutCase]

    @model_validator(mode="after")
    def _sweeps_a_case(self):
        params.known(self.cases, self.sweep.case, "case")
        return self


def guidance_of(
    params: Params[Experiment], case: LayoutCase, scenes: Sequence[LayoutItem], segmenter
) -> list[Guidance]:
    """The guidance of a case on the scenes' layouts."""
    layouts = [KEEP[case.layout](scene.layout) for scene in scenes]
    return methods.guidance(case, params.sampling.cfg_scale, layouts=layouts, segmenter=segmenter)


def watching(params: Params[Experiment], case: LayoutCase, scenes: Sequence[LayoutItem], segmenter) -> list[Guidance]:
    """The baseline as the guide sees it: DGA with an empty window never acts, but a Trace records masks and losses."""
    layouts = [KEEP[case.layout](scene.layout) for scene in scenes]
    return [CFG(params.sampling.cfg_scale), DGA(layouts=layouts, segmenter=segmenter, window=Window(0.0, 0.0))]
