"""Conditions of a scene as pictures: segmentation, depth, normals and sketch, each (64, 64, 3) uint8.

A segmentation paints every object in the code of its kind and colour, on black; instances are connected components.
Codes are points of a lattice of 5 x 4 x 4 levels, at least 64 apart, of which the kind decides red and the upper half
of green, the colour the lower half of green and blue: each can be learnt for itself.
"""

from functools import cache

import numpy as np
from scipy import ndimage

from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import COLORS, KINDS, SIDE
from helpers.miniature.world import Rendered, render

RELIEF = 0.5  # how much of its step in depth an object bulges, at most
STEEPNESS = 8.0  # pixels of height of the normals' relief


def code(kind: str, color: str) -> tuple[int, int, int]:
    """The RGB of an object in a segmentation, 0 to 255; never black."""
    k, c = KINDS.index(kind), list(COLORS).index(color) + 1
    levels = (k % 5) / 4, (k // 5 * 2 + c // 4) / 3, (c % 4) / 3
    return tuple(round(255 * level) for level in levels)


CODES = {(kind, color): code(kind, color) for kind in KINDS for color in COLORS}


def segmentation(scene: Scene, drawn: Rendered | None = None) -> np.ndarray:
    """Every visible pixel of an object in its code, the rest black; no anti-aliasing."""
    drawn = drawn or render(scene)
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    for thing, mask in zip(scene.things, drawn.visible):
        picture[mask] = CODES[thing.kind, thing.color]
    return picture


def depth(scene: Scene, drawn: Rendered | None = None) -> np.ndarray:
    """Grey: the background 0, of n objects the i-th from behind (i + 1 + bulge) / (n + 1); brighter is nearer."""
    drawn = drawn or render(scene)
    values = np.zeros((SIDE, SIDE), np.float32)
    for i, (amodal, visible) in enumerate(zip(drawn.amodal, drawn.visible)):
        values[visible] = (i + 1 + RELIEF * bulge(amodal)[visible]) / (len(scene.things) + 1)
    return _rgb(np.repeat(values[..., None], 3, -1))


def normals(scene: Scene, drawn: Rendered | None = None) -> np.ndarray:
    """(n + 1) / 2 of the unit normals (x right, y down, z to the viewer) of every bulge; the background is flat."""
    drawn = drawn or render(scene)
    found = np.zeros((SIDE, SIDE, 3), np.float32)
    found[..., 2] = 1
    for amodal, visible in zip(drawn.amodal, drawn.visible):
        dy, dx = np.gradient(STEEPNESS * bulge(amodal))
        across = np.stack([-dx, -dy, np.ones_like(dx)], -1)
        found[visible] = (across / np.linalg.norm(across, axis=-1, keepdims=True))[visible]
    return _rgb((found + 1) / 2)


def sketch(scene: Scene, drawn: Rendered | None = None) -> np.ndarray:
    """White outlines of what is seen, on black."""
    drawn = drawn or render(scene)
    lines = np.zeros((SIDE, SIDE), bool)
    for visible in drawn.visible:
        lines |= visible & ~ndimage.binary_erosion(visible, border_value=1)
    return _rgb(np.repeat(lines[..., None], 3, -1).astype(np.float32))


MAPS = {"segmentation": segmentation, "depth": depth, "normals": normals, "sketch": sketch}


def bulge(mask: np.ndarray) -> np.ndarray:
    """A relief of a silhouette (H, W), in [0, 1]: round, highest where the edge is farthest, 0 outside."""
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return np.sqrt(1 - (1 - inside / max(inside.max(), 1)) ** 2).astype(np.float32) * mask


def _rgb(values: np.ndarray) -> np.ndarray:
    return (255 * values + 0.5).astype(np.uint8)


@cache
def _palette() -> tuple[np.ndarray, list[tuple[str, str] | None]]:
    return np.array([(0, 0, 0), *CODES.values()], np.float32), [None, *CODES]


def nearest(pixels: np.ndarray) -> np.ndarray:
    """RGB (..., 3), 0 to 255 -> position (...) of the nearest code, 0 for black, k + 1 for the k-th of CODES."""
    palette, _ = _palette()
    distance = ((np.asarray(pixels, np.float32)[..., None, :] - palette) ** 2).sum(-1)
    return distance.argmin(-1)


def named(position: int) -> tuple[str, str] | None:
    """(kind, colour) of what `nearest` found; None for the background."""
    return _palette()[1][position]
