"""Layout guidance by backward guidance (Chen, Laina & Vedaldi, WACV 2024): attention drawn into boxes before each step.

For the tokens k of every region's phrase, in every head of some mid and up blocks (on 8 x 8 and 16 x 16 cells), with B
the cells of the region's box, corners rounded down:

    E   = mean over regions, tokens, heads and layers of (1 - sum_{p in B} A_k(p) / sum_p A_k(p))^2
    z   <- z - (sigma_t / alpha_t)^2 grad_z (30 E),   z = x_t / alpha_t
    x_t <- x_t - sigma_t^2 grad_{x_t} (30 E)                                                the same in this loop's x_t

up to five times a step while E > .2, in the first 10 of 51 steps. Whether a step is guided at all is decided by the
last E that was seen, in the step before: an image that is once content is left alone from then on. Their forward
guidance was never released.

Paper: arXiv 2304.03373. Official code: github.com/silent-chen/layout-guidance. It reads the mid block and the first up
block that has cross attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from helpers.backbones.attention import Layers, Recorded, Site
from helpers.conditions import Layout
from helpers.sampling.descent import descend
from helpers.sampling.hooks import Ctx, Guidance, Job, Recurrence, Window
from helpers.sampling.reads import Reads, floored
from helpers.sampling.regions import Regions
from helpers.sampling.settings import setting


def boxes(regions: Regions, site: Site) -> torch.Tensor:
    """(B, N, P) of 0 and 1: B at a layer."""
    return floored(regions, *site.grid).flatten(2)


def outside(seen: Recorded, regions: Regions, layers: Layers) -> torch.Tensor:
    """E (B,) in [0, 1], of the images whose regions are given."""
    tokens = regions.phrases
    weight = (tokens / tokens.sum(-1, keepdim=True).clamp(min=1) * regions.valid[..., None]).to(regions.masks)
    weight = weight / regions.valid.sum(1)[:, None, None]
    energies = []
    for site, probs in seen.of(layers).items():
        inside = torch.einsum("bnp,bhpt->bhnt", boxes(regions, site), probs)
        share = inside / probs.sum(2)[:, :, None].clamp(min=1e-12)
        energies.append(((1 - share).square() * weight[:, None]).sum((-2, -1)).mean(1))
    return torch.stack(energies).mean(0)


@dataclass
class State:
    """The regions of all n images, the layers that the denoiser has for them, and the last E (n,) of each image."""

    regions: Regions
    layers: Layers
    last: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LayoutGuidance(Guidance):
    """x_t <- x_t - scale sigma_t^2 grad E before a step, as long as E is larger than `above`.

    layouts: one for all images, or one per image in the order of the prompts. reads: the layers of which E is the mean.
    """

    layouts: Layout | Sequence[Layout]
    scale: float = setting(240.0, low=0, high=1e5)  # paper 30; 30 to 500
    window: Window = Window(0.0, 0.2)  # noqa: RUF009 (frozen); paper
    most: int = setting(5, low=1, high=1000)  # descents per step; paper 5
    above: float = setting(0.2, low=0, high=1)  # the energy from which on there is none; paper .2
    reads: Reads = Reads((8, 16), ("mid", "up"))  # noqa: RUF009 - paper
    recurrence: Recurrence = Recurrence()  # noqa: RUF009

    @classmethod
    def paper(cls, **given) -> "LayoutGuidance":
        """The authors' scale."""
        return cls(**{"scale": 30.0} | given)

    def setup(self, job: Job) -> State:
        layers = self.reads.on(job.backbone)
        regions = Regions.of(job, self.layouts, "LayoutGuidance", layers)
        return State(regions, layers, torch.full((len(job.prompts),), torch.inf, device=job.backbone.device))

    def before(self, ctx: Ctx, state: State) -> torch.Tensor:
        def loss(seen: Recorded, index: list[int]) -> torch.Tensor:
            found = outside(seen, state.regions.part(index), state.layers)
            state.last[index] = found.detach().to(state.last)
            return found

        if not self.scale:
            return ctx.x_t
        rate, going = self.scale * ctx.level.sigma.square(), state.last[ctx.index] > self.above
        x_t, ctx.curves[self.name] = descend(ctx, self.name, state.layers, loss, rate, self.most, self.above, going)
        return x_t
