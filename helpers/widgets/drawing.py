"""One request drawn step by step, so that whoever watches may stop it; and what a judge reads in the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np
import torch

from helpers.backbones.backbone import Backbone
from helpers.conditions import Region
from helpers.factor_graph.editing import COLORS
from helpers.judges.base import Found
from helpers.metrics.concepts import holds
from helpers.metrics.layout import Target, assign, box_iou
from helpers.perception.scene_graph import SceneGraph, parse
from helpers.sampling.cost import Cost
from helpers.sampling.hooks import Ctx, Guidance
from helpers.sampling.loop import denoise
from helpers.widgets.request import Request

JUDGED = ("left of", "right of", "above", "below", "in front of", "behind")  # relations that `holds` knows


@dataclass
class Drawn:
    """images: (n, 3, H, W) in [0, 1], one per seed. losses: method -> of every guided step (step, mean loss). warnings:
    what went wrong, in words."""

    images: torch.Tensor
    cost: Cost
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def draw(
    backbone: Backbone,
    request: Request,
    methods: Sequence[Guidance],
    told: Callable[[Ctx, Drawn], None] = lambda ctx, drawn: None,
    stop: Event | None = None,
) -> Drawn | None:
    """The request's pictures; None when `stop` was set, which is asked after every evaluation of a step. told: called
    after every step with its context and what is known so far (images: those of x0_hat if somebody decoded them)."""
    prompts, seeds = [request.prompt] * len(request.seeds), list(request.seeds)
    drawn = Drawn(torch.empty(0), Cost())
    for ctx in denoise(backbone, prompts, methods, steps=request.steps, seeds=seeds, batch=len(seeds)):
        if stop is not None and stop.is_set():
            return None
        if ctx.again:
            continue
        for method, (loss, _) in ctx.losses.items():
            drawn.losses.setdefault(method.name, []).append((ctx.i + 1, loss.mean().item()))
        drawn.cost, drawn.warnings, last = ctx.job.cost, ctx.job.warnings, ctx.x_prev
        told(ctx, drawn)
    with torch.no_grad():
        drawn.images = backbone.decode(last).float().clamp(0, 1).cpu()
    return drawn


@dataclass(frozen=True)
class Line:
    """What became of one wish: in words, its overlap with the box (None where no box was drawn), fulfilled or not."""

    wish: str
    seen: str
    iou: float | None
    right: bool


def read(request: Request, found: Sequence[Found], size: tuple[int, int]) -> list[Line]:
    """What of a request one picture of height and width `size` shows, by what a judge found in it: every object of the
    prompt, every relation, and what nobody asked for."""
    graph, boxes = parse(request.prompt), {}
    for region in request.regions:
        boxes[_object(graph, request.prompt, region)] = region
    wanted = [_target(graph, k, boxes.get(k), size) for k in range(len(graph.objects))]
    taken = assign(wanted, found)
    lines = []
    for k, (target, one) in enumerate(zip(wanted, taken, strict=True)):
        iou = box_iou(target.box, one.box) if one and k in boxes else 0.0 if k in boxes else None
        seen = f"a {one.color} one" if one and one.color != target.color else "there" if one else "not there"
        lines.append(Line(graph.phrase(k), seen, iou, bool(one) and target.color in ("", one.color)))
    for i, word, j in graph.relations:
        if word in JUDGED and taken[i] and taken[j]:
            true = holds(word, taken[i], taken[j])
            lines.append(Line(f"{graph.phrase(i)} {word} {graph.phrase(j)}", "true" if true else "not so", None, true))
    extra = [f"{one.color} {one.kind}" for one in found if not any(one is other for other in taken)]
    return [*lines, *(Line("nobody asked for it", name, None, False) for name in extra)]


def _object(graph: SceneGraph, prompt: str, region: Region) -> int | None:
    """The object that a region's phrase is about, None where the grammar finds none there."""
    at = region.start if region.start is not None else prompt.find(region.phrase)
    ends = at + len(region.phrase)
    return next((k for k, one in enumerate(graph.objects) if one.start < ends and at < one.stop), None)


def _target(graph: SceneGraph, k: int, region: Region | None, size: tuple[int, int]) -> Target:
    """An object of the prompt as judges name it: its colour is one of its attributes."""
    one, (height, width) = graph.objects[k], size
    words = [word for word in one.attributes if word in COLORS]
    x0, y0, x1, y1 = region.box if region else (0, 0, 0, 0)
    box = (x0 * width, y0 * height, x1 * width, y1 * height)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    mask = (rows > box[1]) & (rows < box[3]) & (columns > box[0]) & (columns < box[2])
    return Target(one.noun, words[0] if words else "", "", box, mask)
