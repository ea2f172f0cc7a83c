"""Small pictures enlarged, with masks and wanted places drawn over them: uint8 (H, W, 3) in, uint8 (side, side, 3) out.

A mask that a model found is a 40 % fill with an outline; a wanted box or silhouette is a dashed outline. A region has
the same colour everywhere, COLORS[n % len(COLORS)].
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from helpers.conditions import Layout

COLORS = ("#56b4e9", "#e69f00", "#cc79a7", "#00c389", "#f0e442", "#ff6a3d")  # told apart by colour-blind readers too
DARK = (20, 20, 28)
PAPER = (236, 236, 232)
SIDE = 256


def rgb(n: int) -> np.ndarray:
    """The colour of region n, uint8 (3,)."""
    return np.frombuffer(bytes.fromhex(COLORS[n % len(COLORS)][1:]), np.uint8)


def enlarge(frame: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Every pixel becomes a square, as large as fits evenly into `side`, then nearest neighbours."""
    rows, columns = (np.arange(side) * n // side for n in frame.shape[:2])
    return frame[rows][:, columns]


def dimmed(frame: np.ndarray) -> np.ndarray:
    """Grey and darker, so that what is drawn over it stands out."""
    grey = frame.astype(np.float32).mean(-1, keepdims=True) * 0.55 + 20
    return np.repeat(grey, 3, -1).astype(np.uint8)


def crisp(masks: torch.Tensor, side: int = SIDE) -> np.ndarray:
    """Soft masks (N, h, w) in [0, 1] -> bool (N, side, side), enlarged smoothly and cut at one half."""
    return (F.interpolate(masks[None], (side, side), mode="bilinear")[0] >= 0.5).numpy()


def wanted(layout: Layout, side: int = SIDE, grid: int = 64) -> np.ndarray:
    """A layout's boxes and silhouettes as bool (N, side, side)."""
    boxes = [region.mask is None for region in layout.regions]
    masks = crisp(layout.masks(grid, grid), side)
    for n in np.flatnonzero(boxes):
        x0, y0, x1, y1 = (round(v * side) for v in layout.regions[n].box)
        masks[n] = False
        masks[n, y0:y1, x0:x1] = True
    return masks


def edge(mask: np.ndarray, width: int) -> np.ndarray:
    """The outermost `width` pixels of a bool mask, also where it touches the border."""
    return mask & ~ndimage.binary_erosion(mask, iterations=width)


def draw_found(picture: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A copy of `picture` with bool masks (N, side, side) filled at 40 % and outlined."""
    picture = picture.astype(np.float32)
    for n, mask in enumerate(masks):
        picture[mask] += 0.4 * (rgb(n) - picture[mask])
        picture[edge(mask, 2)] = rgb(n)
    return picture.round().astype(np.uint8)


def draw_wanted(picture: np.ndarray, layout: Layout) -> np.ndarray:
    """A copy of `picture` with the layout's places as dashes in the region's colour, dark in between."""
    picture, side = picture.copy(), len(picture)
    down, right = np.indices((side, side))
    dash = (down + right) // (side // 32) % 2 == 0
    for n, mask in enumerate(wanted(layout, side)):
        line = edge(mask, max(side // 96, 1))
        picture[line] = np.where(dash[line][:, None], rgb(n), np.uint8(DARK))
    return picture


def target(layout: Layout, side: int = SIDE) -> np.ndarray:
    """The layout alone: every region filled and outlined on plain paper, later regions over earlier ones."""
    paper = np.full((side, side, 3), PAPER, np.uint8)
    return draw_found(paper, wanted(layout, side))
