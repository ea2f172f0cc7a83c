"""Layout guidance by backward guidance (Chen, Laina & Vedaldi, WACV 2024): attention drawn into boxes before each step.

For the tokens k of every region's phrase, in every head of the coarsest layers (mid and up blocks at 8 x 8 and 16 x 16
of latents of 64 x 64), with B the region's box:

    E   = mean over regions, tokens, heads and layers of (1 - sum_{p in B} A_k(p) / sum_p A_k(p))^2
    z   <- z - sigma_t^2 grad_z (30 E),   z = x_t / sqrt(alpha_bar), sigma_t^2 = (1 - alpha_bar) / alpha_bar
    x_t <- x_t - (1 - alpha_bar) grad_{x_t} (30 E)                                          the same in this loop's x_t

up to five times a step while E > .2, in the first 10 of 51 steps. Their forward guidance was never released.
"""

from collections.abc import Sequence

import torch

from helpers.attention import Layers, Recorded
from helpers.conditions import Layout
from helpers.guidance.base import Ctx, Window
from helpers.guidance.descent import descend
from helpers.guidance.regions import OnLayouts, Regions


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


class LayoutGuidance(OnLayouts):
    """scale: 30. most: descents per step, above: the energy from which on there is none."""

    looks_at = Layers(places=("mid", "up"), ranks=(0, 1))
    own = ("scale", "most", "above")

    def __init__(
        self,
        layouts: Sequence[Layout],
        scale: float = 30.0,
        window: Window = Window(0.0, 0.2),  # noqa: B008 (frozen)
        most: int = 5,
        above: float = 0.2,
    ):
        super().__init__(layouts)
        self.scale, self.window, self.most, self.above = scale, window, most, above

    def before(self, ctx: Ctx) -> torch.Tensor:
        def loss(seen: Recorded, index: list[int]) -> torch.Tensor:
            return outside(seen, self._regions.part(index), self.looks_at)

        rate = self.scale * (1 - ctx.alpha_bar)
        x_t, ctx.notes[self.name] = descend(ctx, self.name, self.looks_at, loss, rate, self.most, self.above)
        return x_t
