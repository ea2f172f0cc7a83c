"""What a segmentation shows: objects by their codes (`helpers.miniature.maps`), and how many of those asked for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from helpers.miniature.maps import named, nearest
from helpers.miniature.scene import mask_box
from helpers.miniature.vocabulary import SIDE

PRESENT = 40 / SIDE**2  # share of a picture's pixels that an object covers at least: 40 of 64 x 64, 10 of 32 x 32


@dataclass(frozen=True)
class Shown:
    """An object of a segmentation; mask (H, W) bool, box (x0, y0, x1, y1) in its pixels."""

    kind: str
    color: str
    box: tuple[int, int, int, int]
    mask: np.ndarray


def objects(segmentation: np.ndarray) -> list[Shown]:
    """Every connected component of one code that is large enough; segmentation (H, W, 3) in 0 to 255."""
    codes, found = nearest(segmentation), []
    for position in np.unique(codes[codes > 0]):
        components, count = ndimage.label(codes == position)
        for k in range(1, count + 1):
            mask = components == k
            if mask.sum() >= PRESENT * mask.size:
                found.append(Shown(*named(int(position)), mask_box(mask), mask))
    return found


def recall(found: Sequence[tuple], wanted: Sequence[tuple]) -> float:
    """The share of the wanted that was found, in [0, 1], each found one counted once; ValueError where none is wanted.

    Both are of any kind that can be compared: (kind, colour), kinds alone.
    """
    if not wanted:
        raise ValueError("recall of no objects: name what was asked for")
    return (Counter(wanted) & Counter(found)).total() / len(wanted)
