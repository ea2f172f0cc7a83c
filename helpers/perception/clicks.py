"""Point-prompted segmentation: clicks on an object in, its mask out. SAM (Kirillov et al. 2023).

The miniature (models/sam) and the real weights (facebook/sam-vit-base) load the same way. The miniature's patches are
4 pixels, so its masks have the size of the image; its decoder knows one mask per prompt, not three guesses.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SamConfig, SamModel

from helpers.perception.loading import pretrained
from helpers.perception.segmenter import Stem

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's image statistics, as SAM was trained with


class StemmedSam(SamModel):
    """SAM of patch size 4 whose patches are embedded by a `Stem`."""

    def __init__(self, config):
        super().__init__(config)
        if config.vision_config.patch_size != 4:
            raise ValueError(f"the stem makes patches of 4 pixels, the config says {config.vision_config.patch_size}")
        self.vision_encoder.patch_embed.projection = Stem(config.vision_config.hidden_size)


MODELS = {model.__name__: model for model in (SamModel, StemmedSam)}


def embed_images(model: SamModel, images: torch.Tensor) -> torch.Tensor:
    """images (B, 3, H, W) in [0, 1], resized to the model's own square and normalised here -> (B, width, h, w)."""
    side = model.config.vision_config.image_size
    if images.shape[-2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device)[:, None, None] for v in (MEAN, STD))
    return model.vision_encoder((images - mean) / std).last_hidden_state


def decode_clicks(model: SamModel, embedded: torch.Tensor, points: torch.Tensor):
    """embedded images (B, width, h, w), points (B, n, k, 2) in pixels of the model's square, x then y: n prompts of k
    clicks each -> logits (B, n, 4 h, 4 w), and the IoU (B, n) that the model expects of them."""
    out = model(image_embeddings=embedded, input_points=points, multimask_output=False)
    return out.pred_masks[:, :, 0], out.iou_scores[:, :, 0]


class ClickSegmenter(nn.Module):
    """A frozen SAM."""

    def __init__(self, model: SamModel):
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def load(cls, name_or_path: str | Path, device="cpu") -> "ClickSegmenter":
        """From a folder in the Hub's layout, or a name on the Hub."""
        return cls(pretrained(name_or_path, SamConfig, MODELS).to(device))

    def forward(self, images: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) in [0, 1]; points (B, k, 2), k clicks on one object per image, in pixels, x then y.

        Returns logits (B, H, W), float32, differentiable with respect to the images; sigmoid of a logit is the
        probability that the pixel belongs to the visible part of the object that was clicked.
        """
        if images.dim() != 4 or images.size(1) != 3:
            raise ValueError(f"images must be (B, 3, H, W) in [0, 1], got {tuple(images.shape)}")
        if points.dim() != 3 or points.size(0) != len(images) or points.size(1) < 1 or points.size(2) != 2:
            raise ValueError(f"points must be ({len(images)}, k, 2): x, y of k clicks; got {tuple(points.shape)}")
        h, w = images.shape[-2:]
        size = torch.tensor([w, h], device=points.device)
        outside = ((points < 0) | (points > size - 1)).any(2).nonzero()
        if len(outside):
            image, click = outside[0].tolist()
            where = tuple(round(v, 2) for v in points[image, click].tolist())
            raise ValueError(f"click {click} of image {image} at {where} is outside: x 0 to {w - 1}, y 0 to {h - 1}")
        side = self.model.config.vision_config.image_size
        points = (points.float() + 0.5) * side / size - 0.5
        logits, _ = decode_clicks(self.model, embed_images(self.model, images.float()), points[:, None])
        if logits.shape[-2:] != (h, w):
            logits = F.interpolate(logits, (h, w), mode="bilinear", antialias=True)
        return logits[:, 0].float()
