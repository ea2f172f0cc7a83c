"""CLIP-IQA on this world's CLIP: how much a picture looks like a flawless one, by a calibrated head on judge-clip.

CLIP-IQA (Wang et al., AAAI 2023) takes P(good) from two prompts, "Good photo." and "Bad photo.". A CLIP that was
trained on captions of rendered scenes has never read such words, and its embedding is blind to contrast and blur on
purpose. So P is a logistic regression on what its layers see: v, mean and standard deviation over the patches, after
the patch embedding and after every block, in units of their spread over flawless pictures,

    P = 1 / (1 + exp(-(<w, v> + b)))

between reconstructions of rendered scenes and the same with a flaw: see helpers.training.quality, which fits it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from helpers.paths import RESULTS
from helpers.perception.similarity import Similarity

HEAD = RESULTS / "quality" / "head.json"


@dataclass
class Quality:
    """mean, spread, weight (d,), bias: of the logistic regression on what the layers of `clip` see."""

    clip: Similarity
    mean: torch.Tensor
    spread: torch.Tensor
    weight: torch.Tensor
    bias: float

    @classmethod
    def load(cls, clip: Similarity, path: Path = HEAD) -> "Quality":
        """FileNotFoundError says how to make it."""
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there: run `dvc repro quality`")
        stored = json.loads(path.read_text())
        return cls(clip, *(torch.tensor(stored[name]) for name in ("mean", "spread", "weight")), stored["bias"])

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) in [0, 1] -> (B,): P(flawless)."""
        return ((layers_of(self.clip, images) - self.mean) / self.spread @ self.weight + self.bias).sigmoid()


@torch.no_grad()
def layers_of(clip: Similarity, images: torch.Tensor, batch: int = 50) -> torch.Tensor:
    """(B, d): mean and standard deviation over the patches, after the patch embedding and every block of the ViT."""
    visual, rows, kept = clip.model.visual, [], []
    layers = [visual.conv1, *visual.transformer.resblocks]
    hooks = [layer.register_forward_hook(lambda layer, given, out: kept.append(out)) for layer in layers]
    try:
        for part in images.split(batch):
            kept.clear()
            clip(part)
            tokens = [kept[0].flatten(2).mT, *(out[:, 1:] for out in kept[1:])]  # without the class token
            rows.append(torch.cat([of(1) for out in tokens for of in (out.mean, out.std)], 1))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(rows)
