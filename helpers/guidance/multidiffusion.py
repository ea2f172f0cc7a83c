"""MultiDiffusion with regions (Bar-Tal et al., ICML 2023): every region is denoised under its own prompt, then fused.

    x_{t-1} = sum_i m_i Phi(x_t^i | y_i) / sum_i m_i          regions i, the rest of the picture being one of them

A step Phi of DDIM is affine in x_t and eps, and x_t^i = x_t where m_i = 1, so that fusing predictions is the same:

    eps = sum_i m_i eps_hat(x_t^i | y_i) / sum_i m_i,         eps_hat with classifier-free guidance

Bootstrapping, the first 40 % of the steps: outside its mask a region sees a plain picture of a random colour, noised to
t, so that it draws its object whole inside; after that x_t^i = x_t.
"""

from collections.abc import Sequence

import torch

from helpers.conditions import Layout
from helpers.guidance.base import Branch, Ctx, Job, Window
from helpers.guidance.regions import OnLayouts


class MultiDiffusion(OnLayouts):
    """layouts: regions and their places. prompts: per image, one prompt per region, then one for the rest. It brings
    its own classifier-free guidance: put it instead of CFG. bootstrap: .4."""

    own = ("cfg_scale", "bootstrap")

    def __init__(
        self,
        layouts: Sequence[Layout],
        prompts: Sequence[Sequence[str]],
        cfg_scale: float = 7.5,
        bootstrap: float = 0.4,
        window: Window = Window(),  # noqa: B008 (frozen)
    ):
        super().__init__(layouts)
        self.prompts, self.cfg_scale = [list(texts) for texts in prompts], cfg_scale
        self.bootstrap, self.window = bootstrap, window

    def setup(self, job: Job) -> None:
        super().setup(job)
        if len(self.prompts) != len(job.prompts):
            raise ValueError(
                f"MultiDiffusion has prompts for {len(self.prompts)} of {len(job.prompts)} images: give each its list"
            )
        for k, (texts, layout) in enumerate(zip(self.prompts, self.layouts, strict=True)):
            if len(texts) != len(layout.regions) + 1:
                raise ValueError(
                    f"image {k} has {len(texts)} prompts for {len(layout.regions)} regions: "
                    "give one per region and one for the rest"
                )
        most = self._regions.valid.size(1)
        padded = [[*texts[:-1], *[texts[-1]] * (most + 1 - len(texts)), texts[-1]] for texts in self.prompts]
        self._texts = [job.encode([texts[n] for texts in padded]) for n in range(most + 1)]
        self._uncond = job.encode([prompt.negative for prompt in job.prompts])
        places = (self._regions.places(*self._regions.latents) >= 0.5).to(job.backbone.dtype)
        rest = 1 - places.amax(1, keepdim=True)
        self._masks = torch.cat([places, rest], 1)[:, :, None]  # (n, N + 1, 1, h, w)
        self._plain = self._colours(job)

    def _colours(self, job: Job) -> torch.Tensor:
        """(n, N, 4, h, w): latents of plain pictures, a colour of its own for every region, by the image's seed."""
        height, width = job.backbone.image_size
        most = self._regions.valid.size(1)
        colours = [torch.rand(most, 3, generator=_generator(seed, 0)) for seed in job.seeds]
        pictures = torch.stack(colours)[..., None, None].expand(-1, -1, -1, height, width)
        pictures = pictures.to(job.backbone.device, job.backbone.dtype)
        return torch.stack([job.backbone.encode(of_image) for of_image in pictures])

    def _views(self, ctx: Ctx) -> torch.Tensor:
        """x_t^i of every region while bootstrapping: (B, N, 4, h, w)."""
        masks, plain = self._masks[ctx.index, :-1], self._plain[ctx.index]
        noise = [torch.randn(plain.shape[1:], generator=_generator(ctx.job.seeds[k], ctx.i + 1)) for k in ctx.index]
        noised = ctx.alpha_bar.sqrt() * plain + ctx.sigma * torch.stack(noise).to(ctx.x_t)
        return masks * ctx.x_t[:, None] + (1 - masks) * noised

    def branches(self, ctx: Ctx) -> list[Branch]:
        uncond, texts = ctx.rows(self._uncond), [ctx.rows(text) for text in self._texts]
        if ctx not in Window(0.0, self.bootstrap):
            return [Branch("uncond", uncond), *(Branch(f"region {n}", text) for n, text in enumerate(texts))]
        views = list(self._views(ctx).unbind(1))
        regions = [Branch(f"region {n}", text, view) for n, (text, view) in enumerate(zip(texts, views, strict=False))]
        plain = [Branch(f"no region {n}", uncond, view) for n, view in enumerate(views)]
        return [Branch("uncond", uncond), *regions, Branch(f"region {len(views)}", texts[-1]), *plain]

    def combine(self, pred: torch.Tensor, ctx: Ctx) -> torch.Tensor:
        total, weight = 0.0, 0.0
        for n in range(len(self._texts)):
            mask, uncond = self._masks[ctx.index, n], ctx.preds.get(f"no region {n}", ctx.preds["uncond"])
            total = total + mask * (uncond + self.cfg_scale * (ctx.preds[f"region {n}"] - uncond))
            weight = weight + mask
        return total / weight


def _generator(seed: int, n: int) -> torch.Generator:
    """Random numbers of an image that are not those of any x_T; n: which, less than 1001."""
    return torch.Generator().manual_seed(2**40 + 1001 * seed + n)
