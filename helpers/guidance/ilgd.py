"""iLGD, injected and loss-guided layout control (Patel & Serkh, WACV 2025): attention is pushed, then pulled, to boxes.

Injection, early: in every cross-attention layer the scores of a region's token k are raised inside its box m_k,

    S' = S + nu_t max(S_k) m_k,   nu_t = nu log(1 + sigma_t),   A' = softmax(S')       max over heads and pixels

Loss guidance, longer: with A_n^k the maps of token k in all heads and layers n, at one resolution,

    A^k = sum_n w_n A_n^k,        w = softmax_n(mean_p A_n^k(p))
    L   = sum_k [sum_{p not in B_k} A^k(p) - sum_{p in B_k} A^k(p)]
    eps' = eps + eta sigma_t grad_{x_t} L

sigma_t is the ratio of noise to signal: the authors sample with LMS, which works on x_t / alpha_t; the strength rule
`Raw` reads it as the noise alone instead. Theirs are nu .75 in steps 1 to 10 of 50 and eta .32 (in their figures .48)
in 1 to 24 (step 0 is left alone), token k the noun, maps of 16 x 16 cells, and boxes of whole cells (`hard`): every
n-th of the latents' mask. Soft boxes, each cell by the share that is covered, are ours. Both act at once early on: the
loss then sees maps that are injected already.

Paper: arXiv 2405.14101. Official code: github.com/ZakariaPZ/loss-guided-layout-control.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from helpers.backbones.attention import Edit, Layers, Recorded, Site
from helpers.backbones.backbone import Backbone
from helpers.conditions import Layout
from helpers.sampling.hooks import Ctx, EnergyGuidance, Info, Job, Window
from helpers.sampling.reads import subsampled
from helpers.sampling.regions import Regions, of_regions, of_tokens
from helpers.sampling.settings import setting
from helpers.sampling.strength import Exploding, Strength, Unit


def combined(seen: Recorded, tokens: torch.Tensor, layers: Layers, grid: tuple[int, int]) -> torch.Tensor:
    """A^k: (B, N, *grid), of N tokens or groups of tokens (B, N, T), from every head and layer."""
    maps = []
    for site, probs in seen.of(layers).items():
        of_site = of_regions(probs, tokens).unflatten(-1, site.grid)  # (B, heads, N, h, w)
        maps.append(F.interpolate(of_site.flatten(0, 1), grid, mode="bilinear").unflatten(0, of_site.shape[:2]))
    stacked = torch.cat(maps, 1)
    return (stacked.mean((-2, -1), keepdim=True).softmax(1) * stacked).sum(1)


def difference(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(B, N, h, w) attention and boxes -> (B, N): outside minus inside, the paper's."""
    return (maps * (1 - 2 * boxes)).sum((-2, -1))


def mean_difference(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The means outside and inside instead of the sums, in units of the whole map: area does not count."""
    inside = (maps * boxes).sum((-2, -1)) / boxes.sum((-2, -1)).clamp(min=1e-6)
    outside = (maps * (1 - boxes)).sum((-2, -1)) / (1 - boxes).sum((-2, -1)).clamp(min=1e-6)
    return (outside - inside) / maps.mean((-2, -1)).clamp(min=1e-6)


def squared_share(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(1 - share of the attention that is inside)^2, as layout-guidance (Chen et al. 2024) has it."""
    return (1 - _share(maps, boxes)).square()


def log_share(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """-log of the share that is inside: the cross entropy of one draw from the map."""
    return -_share(maps, boxes).clamp(min=1e-6).log()


def peak(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Largest value outside minus largest inside, in units of the map's mean: only the place of the maximum counts."""
    top = (maps * (1 - boxes)).amax((-2, -1)) - (maps * boxes).amax((-2, -1))
    return top / maps.mean((-2, -1)).clamp(min=1e-6)


def _share(maps, boxes):
    return (maps * boxes).sum((-2, -1)) / maps.sum((-2, -1)).clamp(min=1e-6)


LOSSES: dict[str, Callable] = {
    "difference": difference,
    "mean_difference": mean_difference,
    "squared_share": squared_share,
    "log_share": log_share,
    "peak": peak,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ILGD(EnergyGuidance):
    """S' inside `injection_window`, eps' = eps + strength(grad of weight * L) inside `window`.

    layouts: one for all images, or one per image in the order of the prompts. loss: a name in LOSSES, "difference" is
    the paper's. cells: along the shorter side of the maps that the loss sees. hard: a cell is a region's or not.
    Defaults are those found on the miniature's dev split; `paper` has the authors'.
    """

    layouts: Layout | Sequence[Layout]
    injection: float = setting(1.5, low=0, high=100)  # nu, 0 for none; paper .75; .4 to 3
    injection_window: Window = Window(0.0, 0.22)  # noqa: RUF009 (frozen) - paper .02 to .22
    weight: float = setting(0.32, low=0, high=1e6)  # eta, 0 for none; paper .32; `Unit` does not mind its size
    window: Window = Window(0.0, 0.7)  # noqa: RUF009 - paper .02 to .5
    strength: Strength = Unit(0.4)  # noqa: RUF009 - paper Exploding()
    loss: str = setting("difference", choices=LOSSES)
    cells: int = setting(8, low=1, high=512)  # paper 16; sums over more cells are larger
    hard: bool = setting(False)  # paper True

    layers: ClassVar[Layers] = Layers()

    @classmethod
    def paper(cls, **given) -> "ILGD":
        """The authors' values."""
        theirs = {"injection": 0.75, "injection_window": Window(0.02, 0.22), "window": Window(0.02, 0.5)}
        return cls(**theirs | {"strength": Exploding(), "cells": 16, "hard": True} | given)

    def setup(self, job: Job) -> Regions:
        return Regions.of(job, self.layouts, "ILGD", self.layers)

    def inside(self, regions: Regions, height: int, width: int) -> torch.Tensor:
        """m, B: (B, N, height, width) in [0, 1], the cells of every region."""
        return subsampled(regions, height, width) if self.hard else regions.places(height, width)

    def active(self, ctx: Ctx) -> bool:
        return ctx in self.window or ctx in self.injection_window

    def edits(self, ctx: Ctx, state: Regions) -> list[Edit]:
        if not self.injection or ctx not in self.injection_window:
            return []
        regions, nu = state.part(ctx.index), self.injection * torch.log1p(ctx.level.ratio)

        def inject(scores: torch.Tensor, site: Site) -> torch.Tensor:
            inside = of_tokens(self.inside(regions, *site.grid).flatten(2), regions.nouns)
            return scores + nu * scores.amax((1, 2), keepdim=True) * inside

        return [Edit(self.layers, scores=inject)]

    def energy(self, ctx: Ctx, state: Regions) -> tuple[torch.Tensor, Info]:
        """L (B,); 0 outside the loss's window. info: inside (B, N), the share of the attention inside the boxes; maps
        (B, N, h, w), A^k divided by its largest value."""
        regions = state.part(ctx.index)
        grid = self.grid(ctx.backbone)
        maps, boxes = combined(ctx.attention, regions.nouns, self.layers, grid), self.inside(regions, *grid)
        loss = torch.where(regions.valid, LOSSES[self.loss](maps, boxes), 0).sum(1)
        seen = maps.detach()
        info = {"inside": _share(seen, boxes) * regions.valid, "maps": seen / seen.amax((-2, -1), True).clamp(min=1e-6)}
        return (loss if ctx in self.window else 0 * loss), info

    def grid(self, backbone: Backbone) -> tuple[int, int]:
        """Height and width of A^k."""
        size = backbone.latent_shape[1:]
        return tuple(round(length * self.cells / min(size)) for length in size)
