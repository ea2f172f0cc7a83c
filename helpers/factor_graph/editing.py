"""Edits of a segmentation: the object that is meant is moved, resized, flipped, recoloured, replaced, deleted or added.

Each takes a segmentation (H, W, 3) uint8 and returns another; the picture is then drawn again given it. What an object
covered becomes background: what lay behind it is not known.
"""

from typing import Literal

import numpy as np

from helpers.factor_graph.reading import PRESENT, Shown, objects
from helpers.miniature.maps import CODES
from helpers.miniature.scene import mask_box
from helpers.miniature.vocabulary import COLORS, KINDS
from helpers.miniature.world import sprite

Box = tuple[int, int, int, int]


def find(segmentation: np.ndarray, kind: str, color: str) -> Shown:
    """The largest object of this kind and colour; ValueError naming what there is where there is none."""
    _known(kind, color)
    shown = objects(segmentation)
    found = [one for one in shown if (one.kind, one.color) == (kind, color)]
    if not found:
        there = ", ".join(f"{one.color} {one.kind}" for one in shown) or "nothing"
        raise ValueError(f"the segmentation shows no {color} {kind}: choose one of what it shows, {there}")
    return max(found, key=lambda one: one.mask.sum())


def deleted(segmentation: np.ndarray, one: Shown) -> np.ndarray:
    """Without the object."""
    return _painted(segmentation, one.mask, (0, 0, 0))


def moved(segmentation: np.ndarray, one: Shown, dx: int, dy: int) -> np.ndarray:
    """The object shifted by whole pixels, in front of what is there; ValueError where it would leave the picture."""
    mask = np.zeros_like(one.mask)
    ys, xs = np.nonzero(one.mask)
    inside = (0 <= ys + dy) & (ys + dy < mask.shape[0]) & (0 <= xs + dx) & (xs + dx < mask.shape[1])
    mask[ys[inside] + dy, xs[inside] + dx] = True
    return _placed(segmentation, one, mask, f"moved by ({dx}, {dy})")


def resized(segmentation: np.ndarray, one: Shown, scale: float) -> np.ndarray:
    """The object `scale` times as wide and high, about the centre of its box."""
    if not 0.1 <= scale <= 10:
        raise ValueError(f"scale={scale!r} must lie between 0.1 and 10: 1 keeps the size")
    x0, y0, x1, y1 = one.box
    sides = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    left, top = round((x0 + x1 - sides[0]) / 2), round((y0 + y1 - sides[1]) / 2)
    mask = fitted(one.mask[y0:y1, x0:x1], (left, top, left + sides[0], top + sides[1]), one.mask.shape)
    return _placed(segmentation, one, mask, f"resized by {scale:g}")


def flipped(segmentation: np.ndarray, one: Shown, along: Literal["x", "y"] = "x") -> np.ndarray:
    """The object mirrored inside its box, left and right (x) or top and bottom (y)."""
    if along not in ("x", "y"):
        raise ValueError(f"along={along!r} is no direction: use 'x' or 'y'")
    x0, y0, x1, y1 = one.box
    mask = np.zeros_like(one.mask)
    mask[y0:y1, x0:x1] = np.flip(one.mask[y0:y1, x0:x1], 1 if along == "x" else 0)
    return _placed(segmentation, one, mask, "flipped")


def recoloured(segmentation: np.ndarray, one: Shown, color: str) -> np.ndarray:
    """The object in another of the world's colours."""
    _known(one.kind, color)
    return _painted(segmentation, one.mask, CODES[one.kind, color])


def added(segmentation: np.ndarray, kind: str, color: str, box: Box) -> np.ndarray:
    """A further object whose silhouette fills the box (x0, y0, x1, y1) in pixels, in front of what is there."""
    _known(kind, color)
    x0, y0, x1, y1 = box
    height, width = segmentation.shape[:2]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(
            f"the box {tuple(box)} does not lie in a picture of {width} x {height} pixels: x0 < x1, y0 < y1"
        )
    shape = sprite(kind, color, "plain", 64)[..., 3] > 0.5
    sx0, sy0, sx1, sy1 = mask_box(shape)
    mask = fitted(shape[sy0:sy1, sx0:sx1], box, (height, width))
    if mask.sum() < PRESENT * mask.size:
        raise ValueError(
            f"a {kind} in the box {tuple(box)} covers {mask.sum()} pixels, too few to be seen: enlarge the box"
        )
    return _painted(segmentation, mask, CODES[kind, color])


def replaced(segmentation: np.ndarray, one: Shown, kind: str, color: str) -> np.ndarray:
    """Another object in the box of this one."""
    _known(kind, color)
    return added(deleted(segmentation, one), kind, color, one.box)


def _placed(segmentation: np.ndarray, one: Shown, mask: np.ndarray, how: str) -> np.ndarray:
    """The object with another mask; ValueError where too little of it is left to be seen."""
    if mask.sum() < PRESENT * mask.size:
        raise ValueError(
            f"the {one.color} {one.kind}, {how}, has {mask.sum()} pixels in the picture, "
            "too few to be seen: change it less"
        )
    return _painted(deleted(segmentation, one), mask, CODES[one.kind, one.color])


def fitted(shape: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """A silhouette stretched to the box, cut off at the picture's edges."""
    x0, y0, x1, y1 = box
    rows, columns = (
        ((np.arange(side) + 0.5) * own / side).astype(int)
        for side, own in ((y1 - y0, shape.shape[0]), (x1 - x0, shape.shape[1]))
    )
    stretched = shape[rows[:, None], columns]
    mask = np.zeros(size, bool)
    ys, xs = np.nonzero(stretched)
    inside = (0 <= ys + y0) & (ys + y0 < size[0]) & (0 <= xs + x0) & (xs + x0 < size[1])
    mask[ys[inside] + y0, xs[inside] + x0] = True
    return mask


def _painted(segmentation: np.ndarray, mask: np.ndarray, code: tuple[int, int, int]) -> np.ndarray:
    picture = segmentation.copy()
    picture[mask] = code
    return picture


def _known(kind: str, color: str) -> None:
    for word, words, what in ((kind, KINDS, "kind"), (color, tuple(COLORS), "colour")):
        if word not in words:
            raise ValueError(f"no class has the {what} {word!r}: use one of {', '.join(words)}")
