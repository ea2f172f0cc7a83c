"""Pieces of images, cut out so that a gradient reaches the image: square windows around boxes, resized to one side.

Boxes are (..., 4): x0, y0, x1, y1 in pixels. They carry no gradient; the pixels inside do.
"""

import torch
from torchvision.ops import roi_align

MARGIN = 1.15  # a window is this much wider than the longer side of its box: an outline needs to be seen from outside


def square(boxes: torch.Tensor, height: int, width: int, margin: float = MARGIN) -> torch.Tensor:
    """The square windows around boxes, moved into the image; no larger than its shorter side. Shape (..., 4)."""
    side = (boxes[..., 2:] - boxes[..., :2]).amax(-1, keepdim=True) * margin
    side = side.clamp(max=min(height, width))
    size = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    corner = (boxes[..., :2] + boxes[..., 2:] - side) / 2
    corner = torch.minimum(corner.clamp(min=0), size - side)
    return torch.cat([corner, corner + side], -1)


def union(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The smallest boxes around two: [min x0, min y0, max x1, max y1]."""
    return torch.cat([torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:])], -1)


def crop(images: torch.Tensor, boxes: torch.Tensor, of: torch.Tensor, side: int) -> torch.Tensor:
    """(K, 3, side, side): the parts `boxes` (K, 4) of images (B, 3, H, W), each from image of[k]; bilinear (RoIAlign,
    He et al. 2017), differentiable with respect to the images; float32 where these have half precision."""
    if images.dtype in (torch.float16, torch.bfloat16):
        images = images.float()  # there is no RoIAlign in bfloat16
    rois = torch.cat([of.to(images)[:, None], boxes.to(images)], 1)
    return roi_align(images, rois, side, aligned=True)
