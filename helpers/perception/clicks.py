"""Point-prompted segmentation: clicks on an object in, its mask out. SAM (Kirillov et al. 2023).

The miniature (models/sam) and the real weights (facebook/sam-vit-base) load the same way. The miniature's patches are
4 pixels, so its masks have the size of the image; its decoder knows one mask per prompt, not three guesses. A picture's
longer side is brought to that of the model's square, the rest is padded at the right or below; clicks follow.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SamImageProcessor, SamModel

from helpers.perception.loading import image_processor, pretrained, source
from helpers.perception.preprocessing import check_images, prepare, resized
from helpers.perception.segmenter import Stem


class StemmedSam(SamModel):
    """SAM of patch size 4 whose patches are embedded by a `Stem`."""

    def __init__(self, config):
        super().__init__(config)
        if config.vision_config.patch_size != 4:
            raise ValueError(f"the stem makes patches of 4 pixels, the config says {config.vision_config.patch_size}")
        self.vision_encoder.patch_embed.projection = Stem(config.vision_config.hidden_size)


MODELS = {model.__name__: model for model in (SamModel, StemmedSam)}


def usual_processor(model: SamModel) -> SamImageProcessor:
    """How pictures are prepared where no file says it: as the published weights want it, at the model's own size."""
    side = model.config.vision_config.image_size
    return SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})


def embed_images(model: SamModel, images: torch.Tensor, processor=None) -> torch.Tensor:
    """images (B, 3, H, W) in [0, 1], brought into the model's own square and normalised here -> (B, width, h, w)."""
    pixels = prepare(processor or usual_processor(model), images).to(model.dtype)
    return model.vision_encoder(pixels).last_hidden_state


def decode_clicks(model: SamModel, embedded: torch.Tensor, points: torch.Tensor):
    """embedded images (B, width, h, w), points (B, n, k, 2) in pixels of the model's square, x then y: n prompts of k
    clicks each -> logits (B, n, 4 h, 4 w), and the IoU (B, n) that the model expects of them."""
    out = model(image_embeddings=embedded, input_points=points, multimask_output=False)
    return out.pred_masks[:, :, 0], out.iou_scores[:, :, 0]


class ClickSegmenter(nn.Module):
    """A frozen SAM with its image processor, None for `usual_processor`."""

    def __init__(self, model: SamModel, processor=None):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.processor = processor or usual_processor(model)

    @classmethod
    def load(cls, name: str | Path, device="cpu") -> "ClickSegmenter":
        """From a name in models/, a folder in the Hub's layout, or a Hub id; float32. See `loading.source`."""
        where = source(name)
        model = pretrained(where, MODELS)
        return cls(model.to(device), image_processor(where, usual_processor(model)))

    def forward(self, images: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) in [0, 1]; points (B, k, 2), k clicks on one object per image, in pixels, x then y.

        Returns logits (B, H, W), float32, differentiable with respect to the images; sigmoid of a logit is the
        probability that the pixel belongs to the visible part of the object that was clicked.
        """
        check_images(images)
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
        inner = resized(self.processor, h, w)  # what the picture fills of the square
        points = points.float() * torch.tensor(inner[::-1], device=points.device) / size  # as SamProcessor does it
        embedded = embed_images(self.model, images, self.processor)
        logits, _ = decode_clicks(self.model, embedded, points[:, None].to(embedded.dtype))
        for square, shape in (((side, side), inner), ((h, w), (h, w))):  # to the square, cut there, to the picture
            if logits.shape[-2:] != square:
                logits = F.interpolate(logits, square, mode="bilinear", align_corners=False)
            logits = logits[..., : shape[0], : shape[1]]
        return logits[:, 0].float()
