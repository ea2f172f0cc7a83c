"""One step of the sampling loop by hand, before or after its predictions; and small layouts to take it with."""

import torch

from helpers.backbones.attention import Recorded, Site
from helpers.backbones.backbone import Backbone
from helpers.conditions import Layout, Prompt, Region
from helpers.guidance.cfg import CFG
from helpers.sampling.hooks import Ctx, Guidance, Job
from helpers.sampling.loop import predict
from helpers.sampling.regions import Regions


def begun(backbone: Backbone, prompts, guidance=(), index=None, i=3, x_t=None, steps=10) -> Ctx:
    """A step before its predictions; x_t is the noise of seeds 0, 1, ... unless given. What the methods' `setup`
    returned is in ctx.job.states."""
    job = Job(backbone, [Prompt(text=p) for p in prompts], list(range(len(prompts))), backbone.solver(steps))
    job.text = job.encode(prompts)
    for method in guidance:
        job.states[method] = method.setup(job)
    index = list(range(len(prompts))) if index is None else list(index)
    return Ctx(job, index, i, noise(backbone, index) if x_t is None else x_t)


def noise(backbone: Backbone, seeds) -> torch.Tensor:
    """x_T of these seeds."""
    drawn = [torch.randn(backbone.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(backbone.dtype)


def context(backbone: Backbone, prompts, guidance=None, index=None, i=3, x_t=None, steps=10) -> Ctx:
    """The same after its predictions, with the attention that the methods read and their edits; ctx.x_t is a leaf."""
    guidance = [CFG(5)] if guidance is None else guidance
    ctx = begun(backbone, prompts, guidance, index, i, x_t, steps)
    ctx.x_t = ctx.x_t.detach().requires_grad_(torch.is_grad_enabled())
    read = [method.layers for method in guidance if method.layers]
    edits = [edit for method in guidance for edit in method.edits(ctx, ctx.job.states[method])]
    with backbone.attention(len(ctx.index), read, edits) as ctx.attention:
        predict(ctx, guidance)
    return ctx


def moved(ctx: Ctx, method: Guidance) -> torch.Tensor:
    """x_t as `method` wants it before the step."""
    return method.before(ctx, ctx.job.states[method])


def edits(ctx: Ctx, method: Guidance) -> list:
    return method.edits(ctx, ctx.job.states[method])


def energy(ctx: Ctx, method: Guidance):
    return method.energy(ctx, ctx.job.states[method])


def layout(prompt: str, **boxes) -> Layout:
    """Keywords are phrases with _ for a blank."""
    regions = [Region(phrase=phrase.replace("_", " "), box=box) for phrase, box in boxes.items()]
    return Layout(prompt=prompt, regions=regions)


LAYOUTS = [
    layout(
        "a red car left of a blue fish on the grass", red_car=(0, 0.25, 0.5, 0.75), blue_fish=(0.625, 0.25, 1, 0.75)
    ),
    layout("a blue ball and a red car", blue_ball=(0.5, 0, 1, 0.5)),
]
PROMPTS = [one.prompt for one in LAYOUTS]
SITE = Site("up", "cross", "up", (8, 8), 1)


def randoms(*shape, seed=0, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(maps, boxes, phrases=None) -> tuple[Recorded, Regions]:
    """Attention (B, heads, h, w, T) of one layer, and regions (B, N, h, w), the n-th named by token n + 1."""
    tokens = torch.zeros(*boxes.shape[:2], maps.size(-1), dtype=torch.bool)
    for n in range(boxes.size(1)):
        tokens[:, n, n + 1] = True
    tokens = tokens if phrases is None else phrases
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    site = Site("up", "cross", "up", tuple(maps.shape[2:4]), 1)
    return Recorded({site: maps.flatten(2, 3)}), Regions([], tokens, tokens, boxes, valid)


def corner_box(side=4, dtype=torch.float32) -> torch.Tensor:
    """(1, 1, side, side): the upper left quarter."""
    box = torch.zeros(1, 1, side, side, dtype=dtype)
    box[..., : side // 2, : side // 2] = 1
    return box


def regions_of(backbone: Backbone, *layouts) -> Regions:
    return Regions.of(begun(backbone, [one.prompt for one in layouts]).job, layouts, "a method")
