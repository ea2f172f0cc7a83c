"""Dense features to follow a point from one image to another: DINOv2 (Oquab et al. 2024).

The miniature (models/dino) and the real weights (facebook/dinov2-small) load the same way. The miniature was trained to
find a moved object's points again, not by self-distillation: fifteen minutes are too few for that.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from helpers.perception.loading import pretrained
from helpers.perception.segmenter import Stem

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's image statistics, as DINOv2 was trained with


class StemmedDinov2(Dinov2Model):
    """DINOv2 of patch size 4 whose patches are embedded by a `Stem`."""

    def __init__(self, config):
        super().__init__(config)
        if config.patch_size != 4:
            raise ValueError(f"the stem makes patches of 4 pixels, the config says {config.patch_size}")
        self.embeddings.patch_embeddings.projection = Stem(config.hidden_size)


MODELS = {model.__name__: model for model in (Dinov2Model, StemmedDinov2)}


def extract(model: Dinov2Model, images: torch.Tensor) -> torch.Tensor:
    """images (B, 3, H, W) in [0, 1] -> unit-norm features (B, d, h, w), one per patch, differentiable.

    Height and width are resized to the nearest multiples of the patch size, and normalised here.
    """
    patch = model.config.patch_size
    h, w = (max(1, round(side / patch)) for side in images.shape[-2:])
    if images.shape[-2:] != (h * patch, w * patch):
        images = F.interpolate(images, (h * patch, w * patch), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device)[:, None, None] for v in (MEAN, STD))
    states = model((images - mean) / std).last_hidden_state[:, 1:]
    return F.normalize(states.float(), dim=2).transpose(1, 2).unflatten(2, (h, w))


def similarities(source: torch.Tensor, target: torch.Tensor, points: torch.Tensor, size: tuple[int, int]):
    """Cosines (B, k, H, W) of the features at k points of the source with those of every target pixel.

    source, target: features (B, d, h, w) of images of `size` (H, W), interpolated bilinearly; points: (B, k, 2) pixels
    of the source image, x then y.
    """
    grid = (points.to(source) + 0.5) / torch.tensor(size[::-1], device=source.device) * 2 - 1
    wanted = F.grid_sample(source, grid[:, :, None], padding_mode="border", align_corners=False)[..., 0]
    target = F.normalize(F.interpolate(target, size, mode="bilinear", align_corners=False), dim=1)
    return torch.einsum("bdk,bdhw->bkhw", F.normalize(wanted, dim=1), target)


def correspond(source: torch.Tensor, target: torch.Tensor, points: torch.Tensor, size: tuple[int, int]):
    """The nearest neighbours (B, k, 2) in the target, pixels x then y, of points of the source; see `similarities`."""
    best = similarities(source, target, points, size).flatten(2).argmax(2)
    return torch.stack([best % size[1], best // size[1]], -1)


class Features(nn.Module):
    """A frozen DINOv2."""

    def __init__(self, model: Dinov2Model):
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def load(cls, name_or_path: str | Path, device="cpu") -> "Features":
        """From a folder in the Hub's layout, or a name on the Hub."""
        return cls(pretrained(name_or_path, Dinov2Config, MODELS).to(device))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) in [0, 1] -> unit-norm features (B, d, h, w), float32, one per patch; differentiable."""
        if images.dim() != 4 or images.size(1) != 3:
            raise ValueError(f"images must be (B, 3, H, W) in [0, 1], got {tuple(images.shape)}")
        return extract(self.model, images.float())
