"""Composable Diffusion (Liu et al., ECCV 2022): concepts are drawn together by adding their scores. Knows no boxes.

eps_hat = eps_uncond + sum_i w_i (eps(c_i) - eps_uncond)          w_i: 7.5 each; a negative one asks for absence
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from helpers.backbones.backbone import Text
from helpers.conditions import Layout
from helpers.perception.scene_graph import parse
from helpers.sampling.hooks import Branch, Ctx, Guidance, Job, Recurrence, per_image
from helpers.sampling.settings import setting

Texts = Sequence[Sequence[str]]


def concepts(layout: Layout) -> list[str]:
    """A prompt of its own for every region, with the place that the whole prompt names: "a red car in the snow"."""
    try:
        place = parse(layout.prompt).place or ""
    except ValueError:  # a prompt that the grammar cannot read has no place
        place = ""
    return [f"{_with_article(region.phrase)} {place}".strip() for region in layout.regions]


def _with_article(phrase: str) -> str:
    if phrase.split()[0].lower() in ("a", "an", "the"):
        return phrase
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


@dataclass
class State:
    """texts: row k of the i-th is the i-th concept of image k. weights (n, concepts): w_i, 0 for those that an image
    does not have."""

    texts: list[Text]
    weights: torch.Tensor
    uncond: Text


@dataclass(frozen=True, kw_only=True, eq=False)
class Composable(Guidance):
    """eps_hat, instead of CFG.

    prompts: per image its concepts; None takes them from `layouts` (one for all images, or one per image), as
    `concepts` words them. Every image's `negative` prompt is its unconditional text.
    """

    prompts: Texts | None = None
    layouts: Layout | Sequence[Layout] | None = None
    scale: float = setting(0.5, low=0, high=100)  # w_i, each; paper 7.5; .5 to 7.5
    recurrence: Recurrence = Recurrence()  # noqa: RUF009 (frozen) - paper none

    decides: ClassVar[bool] = True

    @classmethod
    def paper(cls, **given) -> "Composable":
        """The authors' weights."""
        return cls(**{"scale": 7.5} | given)

    def setup(self, job: Job) -> State:
        prompts = self._prompts(job)
        most = max(map(len, prompts))
        texts = [job.encode([own[min(n, len(own) - 1)] for own in prompts]) for n in range(most)]
        counts = torch.tensor([len(own) for own in prompts])
        weights = self.scale * (torch.arange(most) < counts[:, None]).to(job.backbone.device, job.backbone.dtype)
        return State(texts, weights, job.encode([prompt.negative for prompt in job.prompts]))

    def _prompts(self, job: Job) -> Texts:
        if self.prompts is None and self.layouts is None:
            raise ValueError("Composable has no concepts: give prompts, or layouts to take them from")
        layouts = None if self.layouts is None else per_image(self.layouts, Layout, job, "Composable")
        prompts = (
            list(map(concepts, layouts)) if self.prompts is None else checked_texts(self.prompts, job, "Composable")
        )
        empty = next((k for k, texts in enumerate(prompts) if not texts), None)
        if empty is not None:
            raise ValueError(f"image {empty} has no concepts: give at least one")
        return prompts

    def branches(self, ctx: Ctx, state: State) -> list[Branch]:
        of_concepts = [Branch(f"concept {n}", ctx.rows(text)) for n, text in enumerate(state.texts)]
        return [Branch("uncond", ctx.rows(state.uncond)), *of_concepts]

    def combine(self, pred: torch.Tensor, ctx: Ctx, state: State) -> torch.Tensor:
        uncond, weights = ctx.preds["uncond"], state.weights[ctx.index]
        return uncond + sum(
            weights[:, n, None, None, None] * (ctx.preds[f"concept {n}"] - uncond) for n in range(len(state.texts))
        )


def checked_texts(prompts: Texts, job: Job, method: str) -> list[list[str]]:
    """A list of texts for every image; ValueError for anything else."""
    for texts in [prompts, *([] if isinstance(prompts, str) else prompts)]:
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise ValueError(f"{method}(prompts={prompts!r:.60}): give a list of texts for every image")
    if not all(isinstance(text, str) for texts in prompts for text in texts):
        raise ValueError(f"{method}(prompts={prompts!r:.60}): give a list of texts for every image")
    if len(prompts) != len(job.prompts):
        raise ValueError(f"{method} has prompts for {len(prompts)} of {len(job.prompts)} images: give each its list")
    return [list(texts) for texts in prompts]
