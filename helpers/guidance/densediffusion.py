"""DenseDiffusion (Kim et al., ICCV 2023): attention scores are modulated so that regions and phrases find each other.

In all cross- and self-attention layers, for the first 30 % of the steps, with R(p, k) = 1 where pixel p and key k
belong together (a token of a region's phrase and a pixel of the region; two pixels of one region) and 0 for every other
key, start, end and padding tokens among them, max and min over a row:

    S' = S + lambda (max S - S)   where R = 1,       S' = S - lambda (S - min S)   where R = 0
    lambda = w (t / T)^5 (1 - area of the pixel's region),   w = 1 in cross attention, .3 in self attention

Where regions overlap, a pixel belongs to all of them and the smallest decides lambda. Every region's phrase is also
encoded by itself, and its tokens take the place of the phrase's in the prompt (`paste`: 1 there, 0 leaves the prompt as
it is: mini-sd's text encoder, unlike CLIP, minds where a phrase stands). The authors' segments cover the whole picture:
`rest` makes the pixels of no region one more segment, whose keys are the tokens that name none; without it these pixels
attend as ever, to the regions' phrases as well.

Paper: arXiv 2308.12964. Official code: github.com/naver-ai/DenseDiffusion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from helpers.backbones.attention import Edit, Layers, Site
from helpers.backbones.backbone import Text
from helpers.conditions import Layout
from helpers.sampling.hooks import Ctx, Guidance, Job, Recurrence, Window
from helpers.sampling.regions import Regions
from helpers.sampling.settings import setting


def modulate(scores: torch.Tensor, together: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """S'. scores (B, heads, P, K); together (B, 1, P, K) bool: R; strength, the same shape: lambda, 0 for no change."""
    up = scores.amax(-1, keepdim=True) - scores
    down = scores - scores.amin(-1, keepdim=True)
    return scores + strength * torch.where(together, up, -down)


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseDiffusion(Guidance):
    """S' in every layer, and the phrases' own embeddings in the prompt. With scale 0 and paste 0 it does nothing.

    layouts: one for all images, or one per image in the order of the prompts.
    """

    layouts: Layout | Sequence[Layout]
    scale: float = setting(16.0, low=0, high=1e4)  # multiplies both weights; paper 1; 1 to 32
    cross_weight: float = setting(1.0, low=0, high=100)  # w in cross attention; paper 1
    self_weight: float = setting(0.0, low=0, high=100)  # w in self attention; paper .3
    paste: float = setting(0.0, low=0, high=1)  # share of the phrases' own embeddings; paper 1
    rest: bool = setting(True)  # one more segment for the pixels of no region; paper True
    window: Window = Window(0.0, 0.5)  # noqa: RUF009 (frozen) - paper 0 to .3
    recurrence: Recurrence = Recurrence()  # noqa: RUF009 (frozen) - paper none

    @classmethod
    def paper(cls, **given) -> "DenseDiffusion":
        """The authors' values."""
        return cls(**{"scale": 1.0, "self_weight": 0.3, "paste": 1.0, "window": Window(0.0, 0.3)} | given)

    def setup(self, job: Job) -> Regions:
        return Regions.of(job, self.layouts, "DenseDiffusion")

    def encode(self, text: Text, job: Job, state: Regions) -> Text:
        """The prompts' embeddings with every phrase's own in its place."""
        if not self.paste:
            return text
        places = [(k, region) for k, layout in enumerate(state.layouts) for region in layout.regions]
        alone = job.encode([region.phrase for _, region in places])["tokens"]
        tokens, of = text["tokens"].clone(), job.backbone.tokens
        for own, (k, region) in zip(alone, places, strict=True):
            there = of.runs(state.layouts[k].prompt, region.phrase, region.start)
            for keys, theirs in zip(there, of.runs(region.phrase, region.phrase, 0), strict=True):
                pairs = zip(keys, theirs, strict=False)  # a tokenizer may split a first word in another way
                for key, other in pairs:
                    tokens[k, key] = torch.lerp(tokens[k, key], own[other], self.paste)
        return text | {"tokens": tokens}

    def segments(self, regions: Regions, site: Site) -> torch.Tensor:
        """(B, N or N + 1, P) of 0 and 1: the pixels of every region, and of none."""
        inside = regions.cells(*site.grid).flatten(2)
        return _with_rest(inside) if self.rest else inside

    def edits(self, ctx: Ctx, state: Regions) -> list[Edit]:
        regions = state.part(ctx.index)
        fade = self.scale * (ctx.t / ctx.backbone.schedule.timesteps) ** 5
        words, masks = regions.phrases.float(), regions.masks
        if self.rest:
            words, masks = _with_rest(words), _with_rest(masks)
        free = 1 - masks.mean((-2, -1))  # (B, N)

        def modulated(weight: float, scores: torch.Tensor, segments: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
            together = torch.einsum("bnp,bnk->bpk", segments, keys)[:, None] > 0
            strength = (segments * free[..., None]).amax(1)[:, None, :, None]  # 0 for a pixel of no segment
            return modulate(scores, together, fade * weight * strength)

        def cross(scores: torch.Tensor, site: Site) -> torch.Tensor:
            return modulated(self.cross_weight, scores, self.segments(regions, site), words)

        def within(scores: torch.Tensor, site: Site) -> torch.Tensor:
            segments = self.segments(regions, site)
            return modulated(self.self_weight, scores, segments, segments)

        edits = {"cross": (self.cross_weight, cross), "self": (self.self_weight, within)}
        return [Edit(Layers(kind), scores=change) for kind, (weight, change) in edits.items() if self.scale * weight]


def _with_rest(of_regions: torch.Tensor) -> torch.Tensor:
    """(B, N, ...) of 0 to 1 -> (B, N + 1, ...): the last is what belongs to none of the others."""
    return torch.cat([of_regions, 1 - of_regions.amax(1, keepdim=True)], 1)
