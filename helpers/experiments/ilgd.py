"""The experiment `ilgd`: ablations of iLGD, every combination of some values on the same test layouts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product

import torch
import torch.nn.functional as F

from helpers.backbones import Backbone
from helpers.experiments.draw import draw_benchmark
from helpers.experiments.layout import guidance_of
from helpers.metrics.judge import Judge
from helpers.miniature.benchmark import load_captioned
from helpers.params import Ablation, Option, Params
from helpers.score import judge_images
from helpers.summary import Evaluated, evaluate


@dataclass(frozen=True)
class Point:
    """One combination of an ablation's grid. size: height and width of the images."""

    label: str
    method: str
    options: dict[str, Option]
    split: str
    masks: bool
    size: tuple[int, int]


def points(ablation: Ablation) -> list[Point]:
    """Every combination of the grid, labelled by its values."""
    found = []
    for values in product(*ablation.grid.values()):
        given = dict(zip(ablation.grid, values, strict=True))
        label = ", ".join(
            " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value) for value in values
        )
        size = given.pop("size", (64, 64))
        method, split = given.pop("method", "ilgd"), given.pop("split", "test")
        masks = given.pop("layout", "boxes") == "masks"
        options = {} if method == "none" else {**ablation.options, **given}
        found.append(Point(label, method, options, split, masks, (int(size[0]), int(size[1]))))
    return found


def measure(params: Params, backbone: Backbone, segmenter, judge: Judge, reference, chosen: Sequence[Point]):
    """Points on the first test cases: label -> metric -> entry with its "diff" to the prompt alone on the same split
    and size, and label -> images (n, 3, 64, 64)."""

    @cache
    def scored(split: str, size: tuple[int, int], label: str) -> tuple[torch.Tensor, Evaluated]:
        point = by_label[label] if label != "none" else replace(chosen[0], method="none", options={}, masks=False)
        scenes = load_captioned(split, "short")[: params.profile.curve]
        methods = partial(guidance_of, params, point.method, point.options, segmenter=segmenter, masks=point.masks)
        drawn = draw_benchmark(params, backbone.at(*size), scenes, methods)
        drawn.images = F.interpolate(drawn.images, (64, 64), mode="bilinear", antialias=True).clamp(0, 1)
        return drawn.images, evaluate(judge_images(drawn, scenes, judge), scenes, reference)

    by_label, entries, pictures = {point.label: point for point in chosen}, {}, {}
    for point in chosen:
        label = "none" if point.method == "none" else point.label
        images, found = scored(point.split, point.size, label)
        _, baseline = scored(point.split, point.size, "none")
        entries[point.label], pictures[point.label] = found.entries(), images
        for name, diff in found.minus(baseline).items():
            entries[point.label][name]["diff"] = diff
    return entries, pictures
