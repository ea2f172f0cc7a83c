"""The experiment `sbpc`: prompt compliance by choosing among N candidates, maps or pictures, before one is finished.

FG-DM (arXiv 2410.21638, section 4) draws N segmentations, keeps the one that shows most of the prompt's objects, and
draws one picture given it. Beside it the same choice among pictures of mini-sd, finished or short ones, read by the
guide segmenter; and the methods that change a single picture.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from helpers import params
from helpers.backbones.backbone import Backbone
from helpers.backbones.load import load_backbone
from helpers.benchmarks.base import LayoutItem
from helpers.experiments import methods
from helpers.factor_graph import reading
from helpers.factor_graph.compliance import Chosen, most_compliant
from helpers.factor_graph.factor import Conditions, load_factor
from helpers.guidance.cfg import CFG
from helpers.params import Block, Count, Guide, MethodCase, Params
from helpers.perception.segmenter import Segmenter
from helpers.pipeline.draw import draw_benchmark
from helpers.pipeline.samples import Samples
from helpers.sampling.hooks import Guidance

MAP = "segmentation"  # what the picture's factor calls the chosen map
CANDIDATES = ("candidate_min", "candidate_median", "candidate_max")  # recall among the candidates of a prompt


class Search(Block):
    """of: what is drawn `candidates` times, with `steps` steps each. Pictures of as many steps as the result takes are
    the result; the noise of a shorter one is drawn again in full."""

    of: Literal["maps", "pictures"]
    candidates: Count
    steps: Count | None = None


class SbpcCase(MethodCase):
    """search: what is chosen among; none: one picture as it comes. images: every case is drawn on the same prompts."""

    images: Literal["headline"] = "headline"
    search: Search | None = None

    @model_validator(mode="after")
    def _one_way(self):
        if self.search and self.method:
            raise ValueError(f"candidates are drawn without a method: leave out {self.method!r}, or the search")
        return self


class Experiment(params.Experiment):
    """segmentation, image: the factors, by name or folder. map_cfg_scale: of the first, which needs less than pictures
    do. guide: the segmenter that reads mini-sd's pictures."""

    block: ClassVar[str] = "sbpc"
    guide: Guide
    segmentation: str = Field(min_length=1)
    image: str = Field(min_length=1)
    map_cfg_scale: Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=100)]
    cases: dict[params.Name, SbpcCase]


@dataclass
class Models:
    """What the cases draw with and look through."""

    backbone: Backbone
    segmenter: Segmenter
    factors: dict[str, Backbone]


def load_models(params: Params[Experiment]) -> Models:
    backbone = load_backbone(params.sampling.backbone)
    factors = {name: load_factor(getattr(params.experiment, name)) for name in (MAP, "image")}
    return Models(backbone, Segmenter.load(params.experiment.guide, backbone.device), factors)


def draw_case(
    params: Params[Experiment], case: SbpcCase, scenes: Sequence[LayoutItem], models: Models, showcase: int
) -> Samples:
    """The pictures of a case, one per scene. A row's seconds and NFE are those of all that was drawn for it, reading
    among the seconds; candidate_min, _median and _max: recall of its candidates as they were read, nan without any."""
    if case.search is None:
        drawn = draw_benchmark(params, models.backbone, scenes, _unsearched(params, case, models), showcase)
        return replace(drawn, rows=[row | dict.fromkeys(CANDIDATES, float("nan")) for row in drawn.rows])
    if case.search.of == "maps":
        return _by_maps(params, case.search, scenes, models, showcase)
    return _by_pictures(params, case.search, scenes, models, showcase)


def _unsearched(params: Params, case: SbpcCase, models: Models) -> Callable[[Sequence[LayoutItem]], list[Guidance]]:
    def guided(scenes: Sequence[LayoutItem]) -> list[Guidance]:
        layouts = [scene.layout.boxes_only() for scene in scenes]
        return methods.guidance(case, params.sampling.cfg_scale, layouts=layouts, segmenter=models.segmenter)

    return guided


def _by_maps(params, search: Search, scenes, models: Models, showcase: int) -> Samples:
    """Of N segmentations the one with the best recall of (kind, colour), then one picture given it."""
    wanted = [[(thing.kind, thing.color) for thing in scene.things] for scene in scenes]

    def recall(condition: torch.Tensor, row: int) -> float:
        picture = (255 * condition).round().permute(1, 2, 0).numpy()
        return reading.recall([(one.kind, one.color) for one in reading.objects(picture)], wanted[row])

    chosen, spent = searched(params, search, scenes, models.factors[MAP], params.experiment.map_cfg_scale, recall)
    place = {scene.id: k for k, scene in enumerate(scenes)}

    def given(some: Sequence[LayoutItem]) -> list[Guidance]:
        maps = chosen.maps[[place[scene.id] for scene in some]]
        return [Conditions(maps={MAP: maps}), CFG(params.sampling.cfg_scale)]

    drawn = draw_benchmark(params, models.factors["image"], scenes, given, showcase)
    return _told(drawn, chosen, spent)


def _by_pictures(params, search: Search, scenes, models: Models, showcase: int) -> Samples:
    """Of N pictures the one in which the guide segmenter finds most of the prompt's phrases."""
    phrases = [[region.phrase for region in scene.layout.regions] for scene in scenes]

    def recall(picture: torch.Tensor, row: int) -> float:
        covered = (models.segmenter.masks(picture[None], phrases[row])[0] > 0.5).float().mean((1, 2))
        return float((covered >= reading.PRESENT).float().mean())

    chosen, spent = searched(params, search, scenes, models.backbone, params.sampling.cfg_scale, recall)
    seeds = [scene.model_copy(update={"seed": seed}) for scene, seed in zip(scenes, spent.seeds, strict=True)]
    if search.steps in (None, params.profile.steps):
        shown = (
            draw_benchmark(params, models.backbone, seeds[:showcase], _plain(params.sampling.cfg_scale), showcase)
            if showcase
            else None
        )
        rows = [row | spent_row for row, spent_row in zip(spent.kept, spent.rows, strict=True)]
        return _told(Samples(chosen.maps, rows, spent.warnings, shown and shown.trace), chosen)
    drawn = draw_benchmark(params, models.backbone, seeds, _plain(params.sampling.cfg_scale), showcase)
    return _told(drawn, chosen, spent)


def _plain(cfg_scale: float) -> Callable[[Sequence[LayoutItem]], list[Guidance]]:
    return lambda scenes: [CFG(cfg_scale)]


@dataclass
class Spent:
    """Of every scene: rows, the seconds and NFE of all its candidates; kept, the row and seeds, the seed of the chosen
    one."""

    rows: list[dict]
    kept: list[dict]
    seeds: list[int]
    warnings: list[str]


def searched(
    params: Params, search: Search, scenes, backbone: Backbone, cfg_scale: float, recall
) -> tuple[Chosen, Spent]:
    """Draw the candidates of all scenes and choose; what that took."""
    steps = search.steps or params.profile.steps
    fewer = replace(params, profile=params.profile.model_copy(update={"steps": steps}))
    tried: list[Samples] = []
    seconds = [0.0] * len(scenes)

    def draw(rows: list[int], seeds: list[int]) -> torch.Tensor:
        asked = [scenes[row].model_copy(update={"seed": seed}) for row, seed in zip(rows, seeds, strict=True)]
        tried.append(draw_benchmark(fewer, backbone, asked, _plain(cfg_scale)))
        return tried[0].images

    def timed(candidate: torch.Tensor, row: int) -> float:
        start = time.perf_counter()
        value = recall(candidate, row)
        seconds[row] += time.perf_counter() - start
        return value

    chosen = most_compliant(draw, timed, [scene.seed for scene in scenes], search.candidates)
    of = [tried[0].rows[k * search.candidates : (k + 1) * search.candidates] for k in range(len(scenes))]
    rows = [
        {"seconds": sum(row["seconds"] for row in own) + seconds[k], "nfe": sum(row["nfe"] for row in own)}
        for k, own in enumerate(of)
    ]
    kept = [own[k] for own, k in zip(of, chosen.kept.tolist(), strict=True)]
    return chosen, Spent(rows, kept, [row["seed"] for row in kept], tried[0].warnings)


def _told(drawn: Samples, chosen: Chosen, spent: Spent | None = None) -> Samples:
    """The pictures with what their search took beside their own cost, and what it found."""
    rows = []
    for k, row in enumerate(drawn.rows):
        found = chosen.recall[k].numpy()
        row = row | dict(zip(CANDIDATES, map(float, (found.min(), np.median(found), found.max())), strict=True))
        if spent:
            row |= {name: row[name] + spent.rows[k][name] for name in ("seconds", "nfe")}
        rows.append(row)
    return replace(drawn, rows=rows, warnings=drawn.warnings + (spent.warnings if spent else []))
