"""The experiment `ilgd`: ablations of iLGD, every combination of some values on the same test layouts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from helpers.backbones.backbone import Backbone
from helpers.benchmarks.base import load_benchmark
from helpers.experiments import layout
from helpers.experiments.layout import guidance_of
from helpers.judges.recogniser import Recogniser
from helpers.params import Block, Guide, MethodCase, Name, Params, known, section
from helpers.pipeline.draw import draw_benchmark
from helpers.pipeline.score import judge_images
from helpers.pipeline.summary import Evaluated, evaluate

HERE = ("case", "split", "layout", "size")  # keys of a grid that are no settings of the method


class Ablation(Block):
    """Every combination of the values of `grid`, on the first test cases; a key is a setting of the method, or one of
    case, split, layout and size (height, width in pixels). case: what is varied, unless the grid says. settings: what
    stays fixed."""

    case: Name | None = None
    grid: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)]
    settings: dict[str, Any] = {}


class Experiment(Block):
    """guide: the segmenter of the methods that look at the picture. cases_of: the experiment whose cases are varied."""

    block: ClassVar[str] = "ilgd"
    benchmark: Name
    cases_of: Literal["layout"]
    guide: Guide
    cases: dict[Name, Ablation]


def every_case(experiment: Experiment, data: Mapping[str, Any]) -> Iterator[tuple[str, MethodCase]]:
    """What the grids combine, each with its place."""
    cases = section((layout.Experiment.block,), layout.Experiment, data).cases
    for name, ablation in experiment.cases.items():
        yield from ((f"cases.{name} ({point.label})", point.case) for point in points(ablation, cases))


@dataclass(frozen=True)
class Point:
    """One combination of an ablation's grid. case: the method with its settings. size: height and width."""

    label: str
    case: MethodCase
    split: str
    masks: bool
    size: tuple[int, int]


def points(ablation: Ablation, cases: Mapping[str, MethodCase]) -> list[Point]:
    """Every combination of the grid, labelled by its values. cases: of the experiment `layout`."""
    found = []
    for values in product(*ablation.grid.values()):
        given = dict(zip(ablation.grid, values, strict=True))
        case = known(cases, given.get("case", ablation.case), "case")
        settings = ablation.settings | {key: value for key, value in given.items() if key not in HERE}
        size = given.get("size", {"height": 64, "width": 64})
        found.append(
            Point(
                ", ".join(map(_label, values)),
                case.stating(**settings),
                given.get("split", "test"),
                given.get("layout", "boxes") == "masks",
                (int(size["height"]), int(size["width"])),
            )
        )
    return found


def _label(value: Any) -> str:
    """A value of a grid in words: "0.02 0.22" of a window or a size, "unit 0.2" of a strength."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return " ".join(f"{v:g}" if isinstance(v, int | float) else str(v) for v in values)


def measure(params: Params, backbone: Backbone, segmenter, judge: Recogniser, reference, chosen: Sequence[Point]):
    """Points on the first test cases: label -> metric -> entry with its "diff" to the prompt alone on the same split
    and size, and label -> images (n, 3, 64, 64)."""
    plain, benchmark = MethodCase(images="curve"), load_benchmark(params.experiment.benchmark)

    @cache
    def scored(split: str, size: tuple[int, int], label: str) -> tuple[torch.Tensor, Evaluated]:
        point = by_label[label] if label != "none" else replace(chosen[0], case=plain, masks=False)
        scenes = benchmark.items(split)[: params.profile.curve]
        make = partial(guidance_of, params, point.case, segmenter=segmenter, masks=point.masks)
        drawn = draw_benchmark(params, backbone.at(*size), scenes, make)
        drawn.images = F.interpolate(drawn.images, (64, 64), mode="bilinear", antialias=True).clamp(0, 1)
        return drawn.images, evaluate(judge_images(drawn, scenes, judge), scenes, reference)

    by_label, entries, pictures = {point.label: point for point in chosen}, {}, {}
    for point in chosen:
        label = point.label if point.case.method else "none"
        images, found = scored(point.split, point.size, label)
        _, baseline = scored(point.split, point.size, "none")
        entries[point.label], pictures[point.label] = found.entries(), images
        for name, diff in found.minus(baseline).items():
            entries[point.label][name]["diff"] = diff
    return entries, pictures
