"""How well objects lie in boxes that they need not fill, by the boxes of what the judge recognised.

Every region takes at most one recognised object, as in `helpers.metrics.layout`. A region's mask is the silhouette that
fills its box best, see `helpers.benchmarks.miniature_free`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from helpers.benchmarks.base import LayoutItem
from helpers.judges.base import Found
from helpers.metrics.layout import assign, box_iou, targets

Box = Sequence[float]


def reachable(box: Box, mask: np.ndarray) -> float:
    """The largest box IoU that an object can have in a box: that of the silhouette (H, W) which fills it best."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return box_iou(box, (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))


def inside(found: Box, asked: Box) -> float:
    """The share of an object's box (x0, y0, x1, y1) that lies in the asked one."""
    width, height = min(found[2], asked[2]) - max(found[0], asked[0]), min(found[3], asked[3]) - max(found[1], asked[1])
    return max(width, 0) * max(height, 0) / ((found[2] - found[0]) * (found[3] - found[1]))


def off_centre(found: Box, asked: Box) -> float:
    """The distance of two boxes' centres in diagonals of the asked one: .5 is as far as its corners."""
    (x, y), (wanted_x, wanted_y) = (((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (found, asked))
    return float(np.hypot(x - wanted_x, y - wanted_y) / np.hypot(asked[2] - asked[0], asked[3] - asked[1]))


def score(case: LayoutItem, found: Sequence[Found]) -> dict[str, float]:
    """One image's numbers, means over the regions, in which an absent object counts 0.

    ceiling: `reachable`. filled: box IoU as a share of it. inside: see there. centred: 1 - 2 `off_centre`, at least 0:
    1 where the centres agree, 0 from as far as the asked box's corners. off_centre: over the objects that were found,
    nan without any.
    """
    wanted = targets(case, found[0].mask.shape if found else None)
    boxed = [replace(thing, mask=_filled(thing.box, thing.mask.shape)) for thing in found]  # their masks are not stored
    pairs = [(w, f) for w, f in zip(wanted, assign(wanted, boxed), strict=True) if f is not None]
    off = [off_centre(f.box, w.box) for w, f in pairs]
    return {
        "ceiling": float(np.mean([reachable(w.box, w.mask) for w in wanted])),
        "filled": sum(box_iou(w.box, f.box) / reachable(w.box, w.mask) for w, f in pairs) / len(wanted),
        "inside": sum(inside(f.box, w.box) for w, f in pairs) / len(wanted),
        "centred": sum(max(1 - 2 * distance, 0) for distance in off) / len(wanted),
        "off_centre": float(np.mean(off)) if off else float("nan"),
    }


def _filled(box: tuple[int, int, int, int], shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask
