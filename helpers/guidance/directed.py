"""Directed Diffusion (Ma et al., AAAI 2024): a phrase's attention is written into its box. Partly *reconstructed*.

In every cross-attention layer of the first 20 % of the steps, for the tokens k of a region's phrase and for the first
15 trailing tokens (end of text and padding, which carry the whole prompt), with B the box (for trailing tokens: any):

    A_k(p) <- .01 A_k(p)                         outside B
    A_k(p) <- A_k(p) + b max_p A_k(p) G_B(p)     inside B

G_B: a Gaussian bump in the middle of the box, 1 at its centre, with half the box's sides as standard deviations; b: 1
to 2.5. That the bump is measured by the map's own maximum is ours: the paper adds it to maps scaled beforehand.
"""

from collections.abc import Sequence

import torch

from helpers.attention import Edit, Layers, Site
from helpers.conditions import Layout
from helpers.guidance.base import Ctx, Job, Window
from helpers.guidance.regions import OnLayouts, of_tokens

WEAK = 0.01
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


class Directed(OnLayouts):
    """scale: b. trailing: how many trailing tokens are edited."""

    own = ("scale", "trailing")

    def __init__(
        self,
        layouts: Sequence[Layout],
        scale: float = 1.0,
        trailing: int = 15,
        window: Window = Window(0.0, 0.2),  # noqa: B008 (frozen)
    ):
        super().__init__(layouts)
        self.scale, self.trailing, self.window = scale, trailing, window

    def setup(self, job: Job) -> None:
        super().setup(job)
        tokenizer = job.backbone.pipe.tokenizer
        self._tokens = self._regions.phrases.clone()
        for k, prompt in enumerate(job.prompts):
            end = len(tokenizer(prompt.text)["input_ids"]) - 1
            self._tokens[k, :, end : end + self.trailing] = self._regions.valid[k][:, None]

    def edits(self, ctx: Ctx) -> list[Edit]:
        regions, tokens = self._regions.part(ctx.index), self._tokens[ctx.index]

        def direct(probs: torch.Tensor, site: Site) -> torch.Tensor:
            boxes = regions.places(*site.grid(*regions.latents))
            inside = of_tokens(boxes.flatten(2), tokens)
            weak = torch.where(tokens.any(1)[:, None, None], WEAK + (1 - WEAK) * inside, 1.0)
            return weak * probs + self.scale * probs.amax(2, keepdim=True) * of_tokens(bump(boxes).flatten(2), tokens)

        return [Edit(Layers(), probs=direct)]
