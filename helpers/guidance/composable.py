"""Composable Diffusion (Liu et al., ECCV 2022): concepts are drawn together by adding their scores. Knows no boxes.

eps_hat = eps_uncond + sum_i w_i (eps(c_i) - eps_uncond)          w_i: 7.5 each; a negative one asks for absence
"""

from collections.abc import Sequence

import torch

from helpers.backbones import Text
from helpers.guidance.base import Branch, Ctx, Guidance, Job, Window


class Composable(Guidance):
    """prompts: per image its concepts, such as the phrases of a layout. Put it instead of CFG. scale: w_i, each."""

    def __init__(self, prompts: Sequence[Sequence[str]], scale: float = 7.5, window: Window = Window()):  # noqa: B008
        self.prompts, self.scale, self.window = [list(texts) for texts in prompts], scale, window

    def settings(self) -> dict:
        return super().settings() | {"scale": self.scale}

    def setup(self, job: Job) -> None:
        if len(self.prompts) != len(job.prompts):
            raise ValueError(f"there are concepts for {len(self.prompts)} of {len(job.prompts)} images: give every one")
        empty = next((k for k, texts in enumerate(self.prompts) if not texts), None)
        if empty is not None:
            raise ValueError(f"image {empty} has no concepts: give at least one")
        most = max(map(len, self.prompts))
        self._texts: list[Text] = [
            job.encode([texts[min(n, len(texts) - 1)] for texts in self.prompts]) for n in range(most)
        ]
        counts = torch.tensor([len(texts) for texts in self.prompts])
        self._weights = self.scale * (torch.arange(most) < counts[:, None]).to(job.backbone.device, job.backbone.dtype)
        self._uncond = job.encode([prompt.negative for prompt in job.prompts])

    def branches(self, ctx: Ctx) -> list[Branch]:
        concepts = [Branch(f"concept {n}", ctx.rows(text)) for n, text in enumerate(self._texts)]
        return [Branch("uncond", ctx.rows(self._uncond)), *concepts]

    def combine(self, pred: torch.Tensor, ctx: Ctx) -> torch.Tensor:
        uncond, weights = ctx.preds["uncond"], self._weights[ctx.index]
        return uncond + sum(
            weights[:, n, None, None, None] * (ctx.preds[f"concept {n}"] - uncond) for n in range(len(self._texts))
        )
