"""The experiment `guided_factors`: boxes asked of FG-DM's segmentation, from which the picture then follows (ours).

    y ~ p(y | text), guided by any method        x ~ p(x | y, text)

A factor is a backbone, so whatever places objects in a picture places them in a map, which half the width draws. There
the codes say where every object lies: no segmenter has to be learnt, candidates can be chosen by where their objects
lie, and an object can be stretched to its box without any denoising. Beside it the same methods on mini-sd's picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from helpers import params
from helpers.backbones.backbone import Backbone
from helpers.backbones.load import load_backbone
from helpers.benchmarks.base import LayoutItem, load_benchmark
from helpers.conditions import Layout
from helpers.experiments import methods
from helpers.factor_graph.arranging import arranged, placed
from helpers.factor_graph.codes import CodeReader
from helpers.factor_graph.compliance import most_compliant
from helpers.factor_graph.factor import Conditions, load_factor
from helpers.guidance.cfg import CFG
from helpers.params import Count, Guide, MethodCase, Params
from helpers.perception.segmenter import Segmenter
from helpers.pipeline.draw import draw_benchmark
from helpers.pipeline.samples import Samples
from helpers.sampling.hooks import Guidance

MAP = "segmentation"  # what the picture's factor calls the map


class GuidedCase(MethodCase):
    """within: what the method places objects in. candidates: so many maps are drawn, and the one is kept whose objects
    lie best in their boxes. arranged: they are then stretched to them. benchmark: in the place of the experiment's."""

    images: Literal["ablation"] = "ablation"
    within: Literal["map", "picture"] = "map"
    candidates: Count = 1
    arranged: bool = False
    benchmark: params.Name | None = None

    @model_validator(mode="after")
    def _maps_alone(self):
        if self.within == "picture" and (self.candidates > 1 or self.arranged):
            raise ValueError("candidates and `arranged` are of maps: leave them out, or draw within a map")
        return self


class Experiment(params.Experiment):
    """guide: the segmenter of the methods that look at a picture. segmentation, image: the factors, by name or folder.
    map_steps, map_cfg_scale: how the first is drawn. prompts: how many of the profile's images at most."""

    block: ClassVar[str] = "guided_factors"
    guide: Guide
    segmentation: str = Field(min_length=1)
    image: str = Field(min_length=1)
    map_steps: Count
    map_cfg_scale: Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=100)]
    prompts: Count
    cases: dict[params.Name, GuidedCase]


@dataclass
class Models:
    """What the cases draw with, and the guide of the picture."""

    backbone: Backbone
    segmenter: Segmenter
    planner: Backbone
    painter: Backbone


def load_models(params: Params[Experiment]) -> Models:
    own, backbone = params.experiment, load_backbone(params.sampling.backbone)
    segmenter = Segmenter.load(own.guide, backbone.device)
    return Models(backbone, segmenter, load_factor(own.segmentation), load_factor(own.image))


def asked(params: Params[Experiment], case: GuidedCase) -> tuple[LayoutItem, ...]:
    """The prompts of a case with their boxes."""
    benchmark = load_benchmark(case.benchmark or params.experiment.benchmark)
    return benchmark.items("test")[: min(params.count(case), params.experiment.prompts)]


def guidance_of(params: Params, case: GuidedCase, scenes: Sequence[LayoutItem], segmenter) -> list[Guidance]:
    """The guidance of a case on the scenes' boxes, in a map or a picture."""
    scale = params.sampling.cfg_scale if case.within == "picture" else params.experiment.map_cfg_scale
    layouts = [scene.layout.boxes_only() for scene in scenes]
    return methods.guidance(case, scale, layouts=layouts, segmenter=segmenter)


def draw_case(params: Params[Experiment], case: GuidedCase, scenes: Sequence[LayoutItem], models: Models) -> Samples:
    """A strip (3, H, 2 W) per scene: the map, and the picture given it; a picture without a map stands beside black. A
    row's seconds and NFE are those of both."""
    if case.within == "picture":
        drawn = draw_benchmark(params, models.backbone, scenes, _methods(params, case, models.segmenter))
        return replace(drawn, images=torch.cat([torch.zeros_like(drawn.images), drawn.images], 3))
    maps, spent = draw_maps(params, case, scenes, models.planner)
    given = torch.stack([torch.from_numpy(one).permute(2, 0, 1) / 255 for one in maps])
    place = {scene.id: k for k, scene in enumerate(scenes)}

    def conditioned(some: Sequence[LayoutItem]) -> list[Guidance]:
        own = given[[place[scene.id] for scene in some]]
        return [Conditions(maps={MAP: own}), CFG(params.sampling.cfg_scale)]

    drawn = draw_benchmark(params, models.painter, scenes, conditioned)
    rows = [
        row | {name: row[name] + before[name] for name in ("seconds", "nfe")}
        for row, before in zip(drawn.rows, spent.rows, strict=True)
    ]
    return Samples(torch.cat([given, drawn.images], 3), rows, [*spent.warnings, *drawn.warnings])


def draw_maps(
    params: Params[Experiment], case: GuidedCase, scenes: Sequence[LayoutItem], planner: Backbone
) -> tuple[list[np.ndarray], Samples]:
    """The map (H, W, 3) uint8 of every scene that its picture is drawn from, and what all its candidates took."""
    fewer = replace(params, profile=params.profile.model_copy(update={"steps": params.experiment.map_steps}))
    layouts: list[Layout] = [scene.layout.boxes_only() for scene in scenes]
    tried: list[Samples] = []

    def draw(rows: list[int], seeds: list[int]) -> torch.Tensor:
        several = [scenes[row].model_copy(update={"seed": seed}) for row, seed in zip(rows, seeds, strict=True)]
        tried.append(draw_benchmark(fewer, planner, several, _methods(params, case, CodeReader())))
        return tried[0].images

    def read(condition: torch.Tensor, row: int) -> float:
        return placed(pixels(condition), layouts[row])

    chosen = most_compliant(draw, read, [scene.seed for scene in scenes], case.candidates)
    maps = [pixels(one) for one in chosen.maps]
    if case.arranged:
        maps = [arranged(*pair) for pair in zip(maps, layouts, strict=True)]
    of = [tried[0].rows[k * case.candidates : (k + 1) * case.candidates] for k in range(len(scenes))]
    rows = [{name: sum(row[name] for row in own) for name in ("seconds", "nfe")} for own in of]
    return maps, replace(tried[0], rows=rows)


def _methods(params: Params, case: GuidedCase, segmenter) -> Callable[[Sequence[LayoutItem]], list[Guidance]]:
    return lambda scenes: guidance_of(params, case, scenes, segmenter)


def parts(strips: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The two of every strip: (n, 3, H, 2 W) -> maps, pictures."""
    return strips.chunk(2, 3)


def pixels(picture: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return (255 * picture).round().byte().permute(1, 2, 0).numpy()
