"""Attend-and-Excite (Chefer et al., SIGGRAPH 2023): no object of the prompt is neglected. Knows no boxes.

A: cross attention at the second coarsest resolution (16 x 16 of latents of 64 x 64), mean over heads and layers,
without the first and the last token; A <- softmax over tokens of 100 A; A_s: the map of subject token s, smoothed.

    L   = max_s max(0, 1 - max_p A_s(p))
    x_t <- x_t - alpha_i grad L,   alpha_i = 20 sqrt(1 - i / 2 (steps - 1)) at step i        first half of the steps

and before that, at the fractions 0, .2 and .4 of the steps, up to 20 times the same until max_p A_s(p) has reached .05,
.5 and .8 for every s. The authors' loop moves x_t once more when the goal is reached; this one does not.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from helpers.attention import Layers, Recorded
from helpers.conditions import Layout
from helpers.guidance.base import Ctx, Window
from helpers.guidance.descent import descend
from helpers.guidance.regions import OnLayouts, of_regions

# The authors' kernel: exp(-((x - mu) / (2 s))^2) with s = .5, wider than the normal distribution that it is named for.
KERNEL = torch.tensor([-1.0, 0.0, 1.0]).square().neg().exp()
SHARPNESS = 100.0
REFINED = {0.0: 0.05, 0.2: 0.5, 0.4: 0.8}  # fraction of the steps -> what max_p A_s(p) shall reach there


def subject_maps(seen: Recorded, tokens: torch.Tensor, layers: Layers) -> torch.Tensor:
    """A_s: (B, N, h, w) in [0, 1], of N tokens or groups of tokens (B, N, T)."""
    found = seen.of(layers)
    mean = torch.stack([probs.mean(1) for probs in found.values()]).mean(0)
    sharp = (SHARPNESS * mean[..., 1:-1]).softmax(-1)
    maps = of_regions(sharp, tokens[..., 1:-1]).unflatten(-1, next(iter(found)).grid(*seen.size))
    kernel = (KERNEL / KERNEL.sum()).to(maps)
    padded = F.pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, torch.outer(kernel, kernel)[None, None]).view_as(maps)


def neglect(maps: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """L (B,) in [0, 1], of A_s (B, N, h, w) where valid (B, N)."""
    return torch.where(valid, (1 - maps.amax((-2, -1))).clamp(min=0), 0).amax(1)


def rate(ctx: Ctx, scale: float) -> float:
    """alpha_i = scale sqrt(1 - i / 2 (steps - 1))."""
    return scale * (1 - ctx.i / max(2 * (ctx.steps - 1), 1)) ** 0.5


class AttendExcite(OnLayouts):
    """layouts: name the subjects by their phrases, of which the last word counts; their places are not read. scale: 20.
    refined: fraction of the steps -> goal, empty for no refinement; None is the method's own."""

    looks_at = Layers(ranks=(1,))
    own = ("scale", "refined", "most")
    own_goals: Mapping[float, float] = REFINED

    def __init__(
        self,
        layouts: Sequence[Layout],
        scale: float = 20.0,
        window: Window = Window(0.0, 0.5),  # noqa: B008 (frozen)
        refined: Mapping[float, float] | None = None,
        most: int = 20,
    ):
        super().__init__(layouts)
        self.scale, self.window, self.most = scale, window, most
        self.refined = dict(self.own_goals if refined is None else refined)

    def loss(self, seen: Recorded, index: list[int]) -> torch.Tensor:
        regions = self._regions.part(index)
        return neglect(subject_maps(seen, regions.nouns, self.looks_at), regions.valid)

    def goal(self, ctx: Ctx) -> float | None:
        """What is to be reached at this step, if it is one that is refined."""
        return next((goal for at, goal in self.refined.items() if round(at * ctx.steps) == ctx.i), None)

    def before(self, ctx: Ctx) -> torch.Tensor:
        goal, alpha = self.goal(ctx), rate(ctx, self.scale)
        if goal is not None:
            ctx.x_t, ctx.notes[f"{self.name}.refined"] = descend(
                ctx, self.name, self.looks_at, self.loss, alpha, self.most, above=1 - goal
            )
        x_t, ctx.notes[self.name] = descend(ctx, self.name, self.looks_at, self.loss, alpha)
        return x_t
