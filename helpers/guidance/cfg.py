"""Classifier-free guidance (Ho & Salimans 2022)."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch

from helpers.backbones.backbone import Text
from helpers.sampling.hooks import Branch, Ctx, Guidance, Job, Window
from helpers.sampling.settings import setting


@dataclass(frozen=True, eq=False)
class CFG(Guidance):
    """eps_hat = eps_uncond + cfg_scale (eps_cond - eps_uncond), in the convention where 1 is the plain prompt.

    Affine, hence the same in every parameterisation. Every image's `negative` prompt ("" by default) is its
    unconditional text.
    """

    cfg_scale: float = setting(7.5, low=0, high=100)  # Stable Diffusion 7.5; 1 to 12
    _: KW_ONLY
    window: Window = Window()  # noqa: RUF009 (frozen)

    decides: ClassVar[bool] = True

    def setup(self, job: Job) -> Text:
        return job.encode([prompt.negative for prompt in job.prompts])

    def branches(self, ctx: Ctx, state: Text) -> list[Branch]:
        return [Branch("uncond", ctx.rows(state))]

    def combine(self, pred: torch.Tensor, ctx: Ctx, state: Text) -> torch.Tensor:
        uncond = ctx.preds["uncond"]
        return uncond + self.cfg_scale * (ctx.preds["cond"] - uncond)
