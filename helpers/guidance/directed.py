"""Directed Diffusion (Ma et al., AAAI 2024): a phrase's attention is written into its box. Partly *reconstructed*.

In every cross-attention layer of the first 20 % of the steps, for the tokens k of a region's phrase and for the first
15 trailing tokens (end of text and padding, which carry the whole prompt), with B the box (for trailing tokens: any):

    A_k(p) <- .01 A_k(p)                         outside B
    A_k(p) <- A_k(p) + b max_p A_k(p) G_B(p)     inside B

G_B: a Gaussian bump in the middle of the box, 1 at its centre, with half the box's sides as standard deviations; b: 1
to 2.5. That the bump is measured by the map's own maximum is ours: the paper adds it to maps scaled beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from helpers.backbones.attention import Edit, Layers, Site
from helpers.conditions import Layout
from helpers.sampling.hooks import Ctx, Guidance, Job, Recurrence, Window
from helpers.sampling.regions import Regions, of_tokens
from helpers.sampling.settings import setting

SPREAD = 0.5  # standard deviation of the bump in sides of the box


def bump(boxes: torch.Tensor) -> torch.Tensor:
    """(..., h, w) shares of cells -> the same shape: G_B, 0 outside."""
    found = []
    for axis in (-1, -2):
        profile = boxes.amax(axis)  # along the other axis
        place = torch.arange(profile.size(-1), dtype=boxes.dtype, device=boxes.device)
        mass = profile.sum(-1, keepdim=True).clamp(min=1e-6)
        centre = (profile * place).sum(-1, keepdim=True) / mass
        found.append((-((place - centre) / (SPREAD * mass)).square() / 2).exp())
    rows, columns = found
    return rows[..., :, None] * columns[..., None, :] * boxes


@dataclass
class State:
    """tokens (n, N, T) bool: the keys that a region's box directs, its phrase's and the trailing ones."""

    regions: Regions
    tokens: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Directed(Guidance):
    """A_k in every layer. With scale 0 and outside 1 it does nothing.

    layouts: one for all images, or one per image in the order of the prompts.
    """

    layouts: Layout | Sequence[Layout]
    scale: float = setting(16.0, low=0, high=1e4)  # b; paper 1 to 2.5; 1 to 16
    outside: float = setting(0.01, low=0, high=1)  # what is left of the attention there; paper .01
    trailing: int = setting(15, low=0, high=512)  # how many trailing tokens are directed; paper 15
    window: Window = Window(0.0, 0.4)  # noqa: RUF009 (frozen) - paper 0 to .2
    recurrence: Recurrence = Recurrence()  # noqa: RUF009 (frozen) - paper none

    @classmethod
    def paper(cls, **given) -> "Directed":
        """The authors' values."""
        return cls(**{"scale": 1.0, "window": Window(0.0, 0.2)} | given)

    def setup(self, job: Job) -> State:
        regions = Regions.of(job, self.layouts, "Directed")
        tokens = regions.phrases.clone()
        for k, prompt in enumerate(job.prompts):
            tokens[k][:, job.backbone.tokens.trailing(prompt.text, self.trailing)] = regions.valid[k][:, None]
        return State(regions, tokens)

    def edits(self, ctx: Ctx, state: State) -> list[Edit]:
        if self.scale == 0 and self.outside == 1:
            return []
        regions, tokens = state.regions.part(ctx.index), state.tokens[ctx.index]

        def direct(probs: torch.Tensor, site: Site) -> torch.Tensor:
            boxes = regions.places(*site.grid)
            inside = of_tokens(boxes.flatten(2), tokens)
            kept = torch.where(tokens.any(1)[:, None, None], self.outside + (1 - self.outside) * inside, 1.0)
            return kept * probs + self.scale * probs.amax(2, keepdim=True) * of_tokens(bump(boxes).flatten(2), tokens)

        return [Edit(Layers(), probs=direct)]
