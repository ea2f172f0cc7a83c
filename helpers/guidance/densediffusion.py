"""DenseDiffusion (Kim et al., ICCV 2023): attention scores are modulated so that regions and phrases find each other.

In all cross- and self-attention layers, for the first 30 % of the steps, with R(p, k) = 1 where pixel p and key k
belong together (a token of a region's phrase and a pixel of the region; two pixels of one region), max and min over a
row:

    S' = S + lambda (max S - S)   where R = 1,       S' = S - lambda (S - min S)   where R = 0
    lambda = w (t / 1000)^5 (1 - area of the region),   w = 1 in cross attention, .3 in self attention

Every region's phrase is also encoded by itself, and its tokens take the place of the phrase's in the prompt (`paste`: 1
there, 0 leaves the prompt as it is: mini-sd's text encoder, unlike CLIP, minds where a phrase stands). Pixels of
no region form one more segment; tokens that name none (articles, the background, padding) are left as they are: the
authors' segments cover the whole picture and every word of interest.
"""

from collections.abc import Sequence

import torch

from helpers.attention import Edit, Layers, Site
from helpers.backbones import Text
from helpers.conditions import Layout
from helpers.guidance.base import Ctx, Job, Window
from helpers.guidance.regions import OnLayouts, of_tokens


def modulate(scores: torch.Tensor, together: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """S'. scores (B, heads, P, K); together (B, 1, P, K) bool: R; strength, the same shape: lambda, 0 for no change."""
    up = scores.amax(-1, keepdim=True) - scores
    down = scores - scores.amin(-1, keepdim=True)
    return scores + strength * torch.where(together, up, -down)


class DenseDiffusion(OnLayouts):
    """scale: multiplies both weights. cross_weight: 1. self_weight: .3. paste: share of the phrases' own embeddings.
    With scale 0 and paste 0 it does nothing."""

    own = ("scale", "cross_weight", "self_weight", "paste")

    def __init__(
        self,
        layouts: Sequence[Layout],
        scale: float = 1.0,
        cross_weight: float = 1.0,
        self_weight: float = 0.3,
        paste: float = 1.0,
        window: Window = Window(0.0, 0.3),  # noqa: B008 (frozen)
    ):
        super().__init__(layouts)
        self.scale, self.window = scale, window
        self.cross_weight, self.self_weight, self.paste = cross_weight, self_weight, paste

    def encode(self, text: Text, job: Job) -> Text:
        """The prompts' embeddings with every phrase's own in its place."""
        phrases = [region.phrase for layout in self.layouts for region in layout.regions]
        alone = job.encode(phrases)["encoder_hidden_states"]
        hidden, n = text["encoder_hidden_states"].clone(), 0
        for k, layout in enumerate(self.layouts):
            for r in range(len(layout.regions)):
                place = self._regions.phrases[k, r].nonzero().flatten()
                own = alone[n, 1 : 1 + len(place)]  # after the start token
                hidden[k, place] = torch.lerp(hidden[k, place], own, self.paste)
                n += 1
        return text | {"encoder_hidden_states": hidden}

    def edits(self, ctx: Ctx) -> list[Edit]:
        regions = self._regions.part(ctx.index)
        fade = self.scale * (ctx.t / ctx.job.scheduler.config.num_train_timesteps) ** 5
        free = 1 - regions.masks.mean((-2, -1))  # (B, N)

        def cross(scores: torch.Tensor, site: Site) -> torch.Tensor:
            inside = (regions.pixels(site) >= 0.5).to(scores)
            together = of_tokens(inside, regions.phrases) > 0
            strength = of_tokens(free[..., None].expand_as(inside), regions.phrases)
            return modulate(scores, together, fade * self.cross_weight * strength)

        def within(scores: torch.Tensor, site: Site) -> torch.Tensor:
            inside = (regions.pixels(site) >= 0.5).to(scores)
            segments = torch.cat([inside, 1 - inside.amax(1, keepdim=True)], 1)  # and what is outside of all
            together = torch.einsum("bnp,bnk->bpk", segments, segments)[:, None] > 0
            small = 1 - segments.mean(-1, keepdim=True)
            strength = (segments * small).amax(1)[:, None, :, None]  # of the segment of the row's pixel
            return modulate(scores, together, fade * self.self_weight * strength)

        return [Edit(Layers("cross"), scores=cross), Edit(Layers("self"), scores=within)]
