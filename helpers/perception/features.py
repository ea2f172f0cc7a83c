"""Dense features to follow a point from one image to another: DINOv2 (Oquab et al. 2024).

The miniature (models/dino) and the real weights (facebook/dinov2-small, facebook/dinov2-with-registers-small) load the
same way. The miniature was trained to find a moved object's points again, not by self-distillation: fifteen minutes are
too few for that.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL.Image import Resampling
from torch import nn
from transformers import BitImageProcessor, Dinov2Model, Dinov2WithRegistersModel

from helpers.perception.loading import image_processor, pretrained, source
from helpers.perception.preprocessing import IMAGENET, check_images, prepare
from helpers.perception.segmenter import Stem


class StemmedDinov2(Dinov2Model):
    """DINOv2 of patch size 4 whose patches are embedded by a `Stem`."""

    def __init__(self, config):
        super().__init__(config)
        if config.patch_size != 4:
            raise ValueError(f"the stem makes patches of 4 pixels, the config says {config.patch_size}")
        self.embeddings.patch_embeddings.projection = Stem(config.hidden_size)


MODELS = {model.__name__: model for model in (Dinov2Model, Dinov2WithRegistersModel, StemmedDinov2)}


def usual_processor(model: Dinov2Model) -> BitImageProcessor:
    """How pictures are prepared where no file says it: as the miniature was trained, and as the published weights."""
    resample = Resampling.BILINEAR if isinstance(model, StemmedDinov2) else Resampling.BICUBIC
    return BitImageProcessor(resample=resample, **IMAGENET)


def extract(model: Dinov2Model, images: torch.Tensor, processor=None) -> torch.Tensor:
    """images (B, 3, H, W) in [0, 1] -> unit-norm features (B, d, h, w), one per patch, differentiable.

    Resampling and statistics are those of the image processor. Its size and its central crop serve one label for a
    picture and would lose the borders: here the whole picture keeps its scale, height and width are only brought to
    the nearest multiples of the patch size. Registers, which are no patches, are dropped.
    """
    patch = model.config.patch_size
    h, w = (max(1, round(side / patch)) for side in images.shape[-2:])
    processor = processor or usual_processor(model)
    pixels = prepare(processor, images, size=(h * patch, w * patch), do_center_crop=False)
    first = 1 + getattr(model.config, "num_register_tokens", 0)
    states = model(pixels.to(model.dtype)).last_hidden_state[:, first:]
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
    """A frozen DINOv2 with its image processor, None for `usual_processor`."""

    def __init__(self, model: Dinov2Model, processor=None):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.processor = processor or usual_processor(model)

    @classmethod
    def load(cls, name: str | Path, device="cpu") -> "Features":
        """From a name in models/, a folder in the Hub's layout, or a Hub id; float32. See `loading.source`."""
        where = source(name)
        model = pretrained(where, MODELS)
        return cls(model.to(device), image_processor(where, usual_processor(model)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) in [0, 1] -> unit-norm features (B, d, h, w), float32, one per patch; differentiable."""
        check_images(images)
        return extract(self.model, images, self.processor)
