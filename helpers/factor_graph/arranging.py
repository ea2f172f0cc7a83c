"""Layouts asked of a segmentation, whose codes say where every object lies: read, and met by moving objects (ours)."""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import box_iou

from helpers.conditions import Layout, Region
from helpers.factor_graph.codes import fitting
from helpers.factor_graph.editing import Box, fitted
from helpers.factor_graph.reading import Shown, objects
from helpers.miniature.maps import CODES
from helpers.miniature.scene import mask_box


def best(region: Region, shown: Sequence[Shown], size: tuple[int, int]) -> tuple[Shown | None, float]:
    """Of the objects that a region's phrase names the one with the best box IoU, and that; (None, 0) without any."""
    pairs = fitting(region.phrase)
    named = [one for one in shown if (one.kind, one.color) in pairs]
    if not named:
        return None, 0.0
    boxes = torch.tensor([one.box for one in named], dtype=torch.float32)
    ious = box_iou(torch.tensor([pixels(region, size)], dtype=torch.float32), boxes)[0]
    return named[int(ious.argmax())], float(ious.max())


def placed(segmentation: np.ndarray, layout: Layout) -> float:
    """Mean box IoU of a layout's regions in a segmentation (H, W, 3); a region without its object counts 0."""
    shown, size = objects(segmentation), segmentation.shape[:2]
    return float(np.mean([best(region, shown, size)[1] for region in layout.regions]))


def arranged(segmentation: np.ndarray, layout: Layout) -> np.ndarray:
    """Every object that the layout names, stretched to its box, the smaller in front; others of the same phrase go, the
    rest stays where it is, all in their exact codes. A region whose object the segmentation does not show stays empty.
    """
    shown, size = objects(segmentation), segmentation.shape[:2]
    named = set().union(*(fitting(region.phrase) for region in layout.regions))
    picture, masks = np.zeros_like(segmentation), []
    for one in shown:
        if (one.kind, one.color) not in named:
            picture[one.mask] = CODES[one.kind, one.color]
    for region in layout.regions:
        one, _ = best(region, shown, size)
        if one:
            x0, y0, x1, y1 = one.box
            masks.append((fitted(one.mask[y0:y1, x0:x1], pixels(region, size), size), CODES[one.kind, one.color]))
    for mask, code in sorted(masks, key=lambda found: -found[0].sum()):
        picture[mask] = code
    return picture


def pixels(region: Region, size: tuple[int, int]) -> Box:
    """The region's box in whole pixels of a picture (height, width), at least one wide and high; a mask's own box."""
    if region.box is None:
        ys, xs = size
        return mask_box(Layout(prompt=region.phrase, regions=(region,)).masks(ys, xs)[0].numpy() > 0.5)
    x0, y0, x1, y1 = (round(side * value) for side, value in zip((size[1], size[0]) * 2, region.box, strict=True))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
