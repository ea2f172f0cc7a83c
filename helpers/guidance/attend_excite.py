"""Attend-and-Excite (Chefer et al., SIGGRAPH 2023): no object of the prompt is neglected. Knows no boxes.

A: cross attention on 16 x 16 cells (or the nearest there are), mean over heads and layers, without the first and the
last token; A <- softmax over tokens of 100 A; A_s: the map of subject token s, smoothed.

    L   = max_s max(0, 1 - max_p A_s(p))
    x_t <- x_t - alpha_i grad L,   alpha_i = 20 sqrt(1 - i / 2 (steps - 1)) at step i        first half of the steps

and before that, at the fractions 0, .2 and .4 of the steps, up to 20 times the same until max_p A_s(p) has reached .05,
.5 and .8 for every s. Where a model reads the prompt with several encoders one after the other (Stable Diffusion 3:
CLIP, then T5, which has no start token), the softmax is over the tokens of each by itself, and A_s is the mean: a word
need not win against itself.

Paper: arXiv 2301.13826. Official code: github.com/yuval-alaluf/Attend-and-Excite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from helpers.backbones.attention import Layers, Recorded
from helpers.backbones.tokens import Tokens
from helpers.conditions import Layout
from helpers.sampling.descent import descend
from helpers.sampling.hooks import Ctx, Guidance, Job, Recurrence, Window
from helpers.sampling.reads import Reads
from helpers.sampling.regions import Regions, of_regions
from helpers.sampling.settings import setting

# The authors' kernel: exp(-((x - mu) / (2 s))^2) with s = .5, wider than the normal distribution that it is named for.
KERNEL = torch.tensor([-1.0, 0.0, 1.0]).square().neg().exp()
SHARPNESS = 100.0


def sharpened(mean: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """(B, P, T) attention -> the same shape: softmax over the tokens of each encoder, 0 at the first and last key."""
    special = torch.zeros(mean.size(-1), dtype=torch.bool, device=mean.device)
    special[list(tokens.special())] = True
    scores = (SHARPNESS * mean).masked_fill(special, -torch.inf)
    return torch.cat([part.softmax(-1) for part in scores.split(tokens.lengths, -1)], -1)


def subject_maps(seen: Recorded, subjects: torch.Tensor, layers: Layers, tokens: Tokens) -> torch.Tensor:
    """A_s: (B, N, h, w) in [0, 1], of N tokens or groups of tokens (B, N, T)."""
    found = seen.of(layers)
    mean = torch.stack([probs.mean(1) for probs in found.values()]).mean(0)
    maps = of_regions(sharpened(mean, tokens), subjects).unflatten(-1, next(iter(found)).grid)
    kernel = (KERNEL / KERNEL.sum()).to(maps)
    padded = F.pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, torch.outer(kernel, kernel)[None, None]).view_as(maps)


def neglect(maps: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """L (B,) in [0, 1], of A_s (B, N, h, w) where valid (B, N)."""
    return torch.where(valid, (1 - maps.amax((-2, -1))).clamp(min=0), 0).amax(1)


def rate(ctx: Ctx, scale: float) -> float:
    """alpha_i = scale sqrt(1 - i / 2 (steps - 1))."""
    return scale * (1 - ctx.i / max(2 * (ctx.steps - 1), 1)) ** 0.5


@dataclass(frozen=True)
class Goals:
    """What max_p A_s(p) shall have reached at fractions of the steps: pairs of fraction and goal, each in [0, 1]."""

    pairs: tuple[tuple[float, float], ...] = ()

    def __post_init__(self):
        for pair in self.pairs:
            if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in pair):
                raise ValueError(f"the goal {pair} must be a fraction of the steps and a value, both from 0 to 1")

    @classmethod
    def of(cls, data: Mapping[float, float] | Sequence[Sequence[float]]) -> "Goals":
        """Of {fraction: goal} or pairs of them."""
        pairs = data.items() if isinstance(data, Mapping) else data
        return cls(tuple((fraction, goal) for fraction, goal in pairs))

    def settings(self) -> list[list[float]]:
        return [list(pair) for pair in self.pairs]

    def at(self, ctx: Ctx) -> float | None:
        """The goal of this step, if it has one."""
        return next((goal for fraction, goal in self.pairs if round(fraction * ctx.steps) == ctx.i), None)


REFINED = Goals(((0.0, 0.05), (0.2, 0.5), (0.4, 0.8)))


@dataclass
class State:
    """The regions of all images, and the layers that the run's denoiser has for them."""

    regions: Regions
    layers: Layers


@dataclass(frozen=True, kw_only=True, eq=False)
class AttendExcite(Guidance):
    """x_t <- x_t - alpha_i grad L before a step, more often where there is a goal.

    layouts: one for all images, or one per image in the order of the prompts; they name the subjects by their phrases,
    of which the last word counts, and their places are not read. refined: fraction of the steps -> goal, none for no
    refinement. reads: whose maps A is made of, of one resolution.
    """

    layouts: Layout | Sequence[Layout]
    scale: float = setting(2.5, low=0, high=1e4)  # alpha_0; paper 20; 1 to 20
    window: Window = Window(0.0, 0.5)  # noqa: RUF009 (frozen); paper
    refined: Goals = REFINED  # paper
    most: int = setting(20, low=1, high=1000)  # evaluations of a refinement; paper 20
    reads: Reads = Reads()  # noqa: RUF009 - paper
    recurrence: Recurrence = Recurrence()  # noqa: RUF009

    @classmethod
    def paper(cls, **given) -> "AttendExcite":
        """The authors' scale."""
        return cls(**{"scale": 20.0} | given)

    def setup(self, job: Job) -> State:
        if len(self.reads.cells) > 1:
            raise ValueError(f"{type(self).__name__}(reads={self.reads.settings()}) must name one resolution")
        layers = self.reads.on(job.backbone)
        return State(Regions.of(job, self.layouts, type(self).__name__, layers), layers)

    def loss(self, maps: torch.Tensor, regions: Regions) -> torch.Tensor:
        """L (B,), of A_s (B, N, h, w) and the same images' regions."""
        return neglect(maps, regions.valid)

    def unreached(self, maps: torch.Tensor, regions: Regions) -> torch.Tensor:
        """(B,) what refinement lowers to 1 - goal."""
        return self.loss(maps, regions)

    def before(self, ctx: Ctx, state: State) -> torch.Tensor:
        def of_maps(loss):
            def of_attention(seen: Recorded, index: list[int]) -> torch.Tensor:
                regions = state.regions.part(index)
                return loss(subject_maps(seen, regions.nouns, state.layers, ctx.backbone.tokens), regions)

            return of_attention

        goal, alpha = self.refined.at(ctx), rate(ctx, self.scale)
        if not alpha:
            return ctx.x_t
        if goal is not None:
            ctx.x_t, ctx.curves[f"{self.name}.refined"] = descend(
                ctx, self.name, state.layers, of_maps(self.unreached), alpha, self.most, above=1 - goal
            )
        x_t, ctx.curves[self.name] = descend(ctx, self.name, state.layers, of_maps(self.loss), alpha)
        return x_t
