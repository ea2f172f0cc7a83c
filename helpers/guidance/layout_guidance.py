"""Layout guidance by backward guidance (Chen, Laina & Vedaldi, WACV 2024): attention drawn into boxes before each step.

For the tokens k of every region's phrase, in every head of the coarsest layers (mid and up blocks at 8 x 8 and 16 x 16
of latents of 64 x 64), with B the region's box:

    E   = mean over regions, tokens, heads and layers of (1 - sum_{p in B} A_k(p) / sum_p A_k(p))^2
    z   <- z - (sigma_t / alpha_t)^2 grad_z (30 E),   z = x_t / alpha_t
    x_t <- x_t - sigma_t^2 grad_{x_t} (30 E)                                                the same in this loop's x_t

up to five times a step while E > .2, in the first 10 of 51 steps. Their forward guidance was never released.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from helpers.backbones.attention import Layers, Recorded
from helpers.conditions import Layout
from helpers.sampling.descent import descend
from helpers.sampling.hooks import Ctx, Guidance, Job, Recurrence, Window
from helpers.sampling.regions import Regions
from helpers.sampling.settings import setting


def outside(seen: Recorded, regions: Regions, layers: Layers) -> torch.Tensor:
    """E (B,) in [0, 1], of the images whose regions are given."""
    tokens = regions.phrases
    weight = (tokens / tokens.sum(-1, keepdim=True).clamp(min=1) * regions.valid[..., None]).to(regions.masks)
    weight = weight / regions.valid.sum(1)[:, None, None]
    energies = []
    for site, probs in seen.of(layers).items():
        inside = torch.einsum("bnp,bhpt->bhnt", regions.pixels(site), probs)
        share = inside / probs.sum(2)[:, :, None].clamp(min=1e-12)
        energies.append(((1 - share).square() * weight[:, None]).sum((-2, -1)).mean(1))
    return torch.stack(energies).mean(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayoutGuidance(Guidance):
    """x_t <- x_t - scale sigma_t^2 grad E before a step, as long as E is larger than `above`.

    layouts: one for all images, or one per image in the order of the prompts. cells: along the shorter side of the
    layers that are read, None for the two coarsest resolutions.
    """

    layouts: Layout | Sequence[Layout]
    scale: float = setting(240.0, low=0, high=1e5)  # paper 30; 30 to 500
    window: Window = Window(0.0, 0.2)  # noqa: RUF009 (frozen); paper
    most: int = setting(5, low=1, high=1000)  # descents per step; paper 5
    above: float = setting(0.2, low=0, high=1)  # the energy from which on there is none; paper .2
    cells: int | None = setting(None, low=1, high=512)  # paper 8 and 16
    recurrence: Recurrence = Recurrence()  # noqa: RUF009

    @classmethod
    def paper(cls, **given) -> "LayoutGuidance":
        """The authors' scale."""
        return cls(**{"scale": 30.0} | given)

    @property
    def reads(self) -> Layers:
        chosen = {"ranks": (0, 1)} if self.cells is None else {"cells": (self.cells,)}
        return Layers(places=("mid", "up"), **chosen)

    def setup(self, job: Job) -> Regions:
        return Regions.of(job, self.layouts, "LayoutGuidance", self.reads)

    def before(self, ctx: Ctx, state: Regions) -> torch.Tensor:
        def loss(seen: Recorded, index: list[int]) -> torch.Tensor:
            return outside(seen, state.part(index), self.reads)

        if not self.scale:
            return ctx.x_t
        rate = self.scale * ctx.level.sigma.square()
        x_t, ctx.curves[self.name] = descend(ctx, self.name, self.reads, loss, rate, self.most, self.above)
        return x_t
