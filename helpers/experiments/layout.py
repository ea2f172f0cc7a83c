"""The experiment `layout`: every method that places objects, on the same layouts (boxes) and seeds."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from helpers import params
from helpers.benchmarks.base import LayoutItem
from helpers.experiments import methods
from helpers.params import Guide, MethodCase, Name, Params
from helpers.paths import RESULTS
from helpers.sampling.attention_maps import AttentionMaps
from helpers.sampling.hooks import Guidance


class LayoutCase(MethodCase):
    """images: every method is drawn on the same ones."""

    images: Literal["headline"] = "headline"


class Experiment(params.Experiment):
    """guide: the segmenter of the methods that look at the picture. search: per case the settings that are tried on the
    dev split instead of its own, as many for each; the best by box IoU draws <case>_tuned."""

    block: ClassVar[str] = "layout"
    guide: Guide
    cases: dict[Name, LayoutCase]
    search: dict[Name, Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]]

    @model_validator(mode="after")
    def _fair(self):
        for name, tried in self.search.items():
            params.known(self.cases, name, "case")
            if len(tried) != len(next(iter(self.search.values()))):
                raise ValueError(f"the search tries {len(tried)} settings of {name!r}: every method gets as many")
            for settings in tried:
                self.cases[name].stating(**settings)
        return self


def every_case(experiment: Experiment, data: Mapping[str, Any]) -> Iterator[tuple[str, MethodCase]]:
    """The cases, and those that the search tries, each with its place."""
    yield from ((f"cases.{name}", case) for name, case in experiment.cases.items())
    for name, tried in experiment.search.items():
        for k, settings in enumerate(tried):
            yield f"search.{name}[{k}]", experiment.cases[name].stating(**settings)


def guidance_of(
    params: Params, case: MethodCase, scenes: Sequence[LayoutItem], segmenter, masks: bool = False
) -> list[Guidance]:
    """The guidance of a case on the scenes' layouts, boxes or masks."""
    layouts = [scene.layout.masks_only() if masks else scene.layout.boxes_only() for scene in scenes]
    return methods.guidance(case, params.sampling.cfg_scale, layouts=layouts, segmenter=segmenter)


def watching(make: Callable) -> Callable:
    """The methods that `make` makes of some scenes, with their attention in the Trace."""

    def with_maps(scenes: Sequence[LayoutItem]) -> list[Guidance]:
        return [*make(scenes), AttentionMaps(layouts=[scene.layout.boxes_only() for scene in scenes])]

    return with_maps


def chosen(params: Params[Experiment], name: str) -> LayoutCase:
    """A case of the experiment, or "<case>_tuned": with the settings that the search found best."""
    if not name.endswith("_tuned"):
        return params.case(name)
    case = name.removesuffix("_tuned")
    path = RESULTS / "layout" / "search" / case / "best.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run `dvc repro search_layout@{case}`")
    return params.case(case).stating(**json.loads(path.read_text()))
