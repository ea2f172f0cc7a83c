"""Classifier-free guidance (Ho & Salimans 2022)."""

from dataclasses import asdict

import torch

from helpers.guidance.base import Branch, Ctx, Guidance, Job, Window


class CFG(Guidance):
    """eps_hat = eps_uncond + cfg_scale (eps_cond - eps_uncond), in the convention where 1 is the plain prompt.

    Affine, hence the same in eps, v and x0. Every image's `negative` prompt ("" by default) is its unconditional text.
    """

    def __init__(self, cfg_scale: float = 7.5, window: Window = Window()):  # noqa: B008 (frozen)
        self.cfg_scale, self.window = cfg_scale, window

    def settings(self) -> dict:
        return {"cfg_scale": self.cfg_scale, "window": asdict(self.window)}

    def setup(self, job: Job) -> None:
        self._text = job.encode([prompt.negative for prompt in job.prompts])

    def branches(self, ctx: Ctx) -> list[Branch]:
        return [Branch("uncond", ctx.rows(self._text))]

    def combine(self, pred: torch.Tensor, ctx: Ctx) -> torch.Tensor:
        uncond = ctx.preds["uncond"]
        return uncond + self.cfg_scale * (ctx.preds["cond"] - uncond)
