"""MultiDiffusion with regions (Bar-Tal et al., ICML 2023): every region is denoised under its own prompt, then fused.

    x_{t-1} = sum_i m_i Phi(x_t^i | y_i) / sum_i m_i          regions i, the rest of the picture being one of them

A step Phi of DDIM is affine in x_t and eps, and x_t^i = x_t where m_i = 1, so that fusing predictions is the same:

    eps = sum_i m_i eps_hat(x_t^i | y_i) / sum_i m_i,         eps_hat with classifier-free guidance

Bootstrapping, the first 40 % of the steps: outside its mask a region sees a plain picture, at every step of another one
of 20 random colours, noised to t with the noise of x_T, so that it draws its object whole inside; after that
x_t^i = x_t.

Paper: arXiv 2302.08113. Official code: github.com/omerbt/MultiDiffusion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from helpers.backbones.backbone import Backbone, Text
from helpers.conditions import Layout
from helpers.guidance.composable import Texts, checked_texts, concepts
from helpers.sampling.hooks import Branch, Ctx, Guidance, Job, Recurrence, Window
from helpers.sampling.regions import Regions
from helpers.sampling.seeds import generator, noise
from helpers.sampling.settings import setting

COLOURS, PICKED = 1, 2  # tags of the random numbers
PALETTE = 20


@dataclass
class State:
    """Of n images with at most N regions, padded. texts: N + 1, row k of the i-th is the prompt of region i of image k,
    the last is that of the rest. masks (n, N + 1, 1, h, w): 1 where a region is. plain (PALETTE, C, h, w): latents of
    pictures of one colour. noise (n, C, h, w): that of x_T."""

    texts: list[Text]
    uncond: Text
    masks: torch.Tensor
    plain: torch.Tensor
    noise: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class MultiDiffusion(Guidance):
    """eps, instead of CFG.

    layouts: one for all images, or one per image in the order of the prompts. prompts: per image, one per region, then
    one for the rest; None words the regions as `helpers.guidance.composable.concepts` does and takes the whole prompt
    for the rest. Every image's `negative` prompt is its unconditional text.
    """

    layouts: Layout | Sequence[Layout]
    prompts: Texts | None = None
    cfg_scale: float = setting(7.5, low=0, high=100)  # paper 7.5; 1 to 12
    bootstrap: float = setting(0.4, low=0, high=1)  # share of the steps; paper .4
    recurrence: Recurrence = Recurrence()  # noqa: RUF009 (frozen) - paper none

    decides: ClassVar[bool] = True

    @classmethod
    def paper(cls, **given) -> "MultiDiffusion":
        """The authors' values, which are the defaults."""
        return cls(**given)

    def setup(self, job: Job) -> State:
        regions = Regions.of(job, self.layouts, "MultiDiffusion")
        most = regions.valid.size(1)
        prompts = self._prompts(job, regions.layouts)
        padded = [[*texts[:-1], *[texts[-1]] * (most + 1 - len(texts)), texts[-1]] for texts in prompts]
        texts = [job.encode([own[n] for own in padded]) for n in range(most + 1)]
        places = regions.cells(*job.backbone.latent_shape[1:]).to(job.backbone.dtype)
        masks = torch.cat([places, 1 - places.amax(1, keepdim=True)], 1)[:, :, None]
        uncond = job.encode([prompt.negative for prompt in job.prompts])
        drawn = noise([torch.Generator().manual_seed(seed) for seed in job.seeds], job.backbone.latent_shape, masks)
        return State(texts, uncond, masks, _colours(job.backbone), drawn)

    def _prompts(self, job: Job, layouts: Sequence[Layout]) -> list[list[str]]:
        if self.prompts is None:
            return [[*concepts(layout), layout.prompt] for layout in layouts]
        prompts = checked_texts(self.prompts, job, "MultiDiffusion")
        for k, (texts, layout) in enumerate(zip(prompts, layouts, strict=True)):
            if len(texts) != len(layout.regions) + 1:
                raise ValueError(
                    f"image {k} has {len(texts)} prompts for {len(layout.regions)} regions: "
                    "give one per region and one for the rest"
                )
        return prompts

    def branches(self, ctx: Ctx, state: State) -> list[Branch]:
        uncond, texts = ctx.rows(state.uncond), [ctx.rows(text) for text in state.texts]
        if ctx not in Window(0.0, self.bootstrap):
            return [Branch("uncond", uncond), *(Branch(f"region {n}", text) for n, text in enumerate(texts))]
        views = list(_views(ctx, state).unbind(1))
        regions = [Branch(f"region {n}", text, view) for n, (text, view) in enumerate(zip(texts, views, strict=False))]
        plain = [Branch(f"no region {n}", uncond, view) for n, view in enumerate(views)]
        return [Branch("uncond", uncond), *regions, Branch(f"region {len(views)}", texts[-1]), *plain]

    def combine(self, pred: torch.Tensor, ctx: Ctx, state: State) -> torch.Tensor:
        total, weight = 0.0, 0.0
        for n in range(len(state.texts)):
            mask, uncond = state.masks[ctx.index, n], ctx.preds.get(f"no region {n}", ctx.preds["uncond"])
            total = total + mask * (uncond + self.cfg_scale * (ctx.preds[f"region {n}"] - uncond))
            weight = weight + mask
        return total / weight


def _colours(backbone: Backbone) -> torch.Tensor:
    """(PALETTE, C, h, w): latents of plain pictures, the same colours in every run."""
    colours = torch.from_numpy(generator(0, COLOURS).random((PALETTE, 3)))
    pictures = colours[..., None, None].expand(-1, -1, *backbone.image_size)
    return backbone.encode(pictures.to(backbone.device, backbone.dtype))


def _views(ctx: Ctx, state: State) -> torch.Tensor:
    """x_t^i of every region while bootstrapping: (B, N, C, h, w)."""
    masks = state.masks[ctx.index, :-1]
    seeds = [ctx.job.seeds[k] for k in ctx.index]
    picked = [generator(seed, PICKED, ctx.i).integers(PALETTE, size=masks.size(1)) for seed in seeds]
    plain = state.plain[torch.from_numpy(np.stack(picked)).to(state.plain.device)]
    noised = ctx.level.mix(plain, state.noise[ctx.index, None])
    return masks * ctx.x_t[:, None] + (1 - masks) * noised
