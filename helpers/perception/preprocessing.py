"""Pictures as a network wants them, by its library's own image processor, so that a gradient reaches the picture.

The processors of transformers crop, pad and normalise tensors with differentiable operations. A picture of floats is
not rounded to whole grey values when it is resized: that is the only difference to the same picture of bytes, at most
two grey values (bilinear one and a half) and none where nothing is resized.
"""

import torch
from PIL.Image import Resampling
from torchvision.transforms.v2 import InterpolationMode, functional
from transformers.image_processing_utils import BaseImageProcessor

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
CLIP = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}


def check_images(images: torch.Tensor, name: str = "images") -> None:
    if images.dim() != 4 or images.size(1) != 3:
        raise ValueError(f"{name} must be (B, 3, H, W) in [0, 1], got {tuple(images.shape)}")


def resize(images: torch.Tensor, size: tuple[int, int], bicubic: bool) -> torch.Tensor:
    """images (B, 3, H, W) in [0, 1] -> (B, 3, *size), antialiased, bicubic or bilinear.

    Bicubic overshoots at edges. Bytes cannot: what goes beyond black and white is cut after either pass, along rows
    first, as Pillow does it.
    """
    if not bicubic:
        return functional.resize(images, size, InterpolationMode.BILINEAR, antialias=True)
    for shape in ((images.shape[-2], size[1]), size):
        if images.shape[-2:] != shape:
            images = functional.resize(images, shape, InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    return images


def resized(processor: BaseImageProcessor, height: int, width: int) -> tuple[int, int]:
    """The size to which the processor resizes a picture, before it crops or pads."""
    shapeless = torch.empty(1, 3, height, width, device="meta")
    return tuple(processor.resize(shapeless, size=processor.size, resample=processor.resample).shape[-2:])


def prepare(processor: BaseImageProcessor, images: torch.Tensor, size=None, **options) -> torch.Tensor:
    """images (B, 3, H, W) in [0, 1] -> float32 pixel values (B, 3, h, w).

    size: (height, width) instead of the processor's own; options: of the processor's call.
    """
    images = images.float()
    if size or processor.do_resize:
        bicubic = processor.resample in (Resampling.BICUBIC, Resampling.LANCZOS)
        images = resize(images, size or resized(processor, *images.shape[-2:]), bicubic)
    options |= {"do_resize": False, "do_rescale": False, "input_data_format": "channels_first"}
    return processor(images=images, return_tensors="pt", **options)["pixel_values"]
