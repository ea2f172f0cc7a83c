"""How well images keep to a layout, by what the judge recognised in them.

Every region of a case takes at most one recognised object, of the kind that its phrase names, each object once: first
as many regions as possible, then the right colours, then the largest overlap. A region without an object counts 0 in
mask_iou, box_iou and recall. Masks are compared with the benchmark's silhouettes, boxes with its boxes, never mixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from helpers.benchmarks.base import LayoutItem
from helpers.conditions import decode_mask
from helpers.judges.base import Found

THRESHOLDS = tuple(np.arange(0.5, 1, 0.05).round(2))  # of COCO's AP@[.5:.95]


@dataclass(frozen=True)
class Target:
    """What a region asks for: box (x0, y0, x1, y1) in pixels, mask (H, W) bool of the benchmark's silhouette."""

    kind: str
    color: str
    pattern: str
    box: tuple[float, float, float, float]
    mask: np.ndarray


def targets(case: LayoutItem, size: tuple[int, int] | None = None) -> list[Target]:
    """The case's regions in order, in pictures of height and width `size`, None for those of the benchmark's masks.

    ValueError when a region has no silhouette or no box to be compared with.
    """
    wanted = []
    for region, thing in zip(case.layout.regions, case.things):
        if region.mask is None or region.box is None:
            raise ValueError(
                f"region {region.phrase!r} of case {case.id} lacks its mask or box: score against load_cases(), "
                "not against a layout that was reduced for guidance"
            )
        mask = decode_mask(region.mask)
        height, width = size or mask.shape
        rows, columns = ((np.arange(n) + 0.5) * of // n for n, of in ((height, mask.shape[0]), (width, mask.shape[1])))
        box = tuple(v * n for v, n in zip(region.box, (width, height, width, height)))
        mask = mask[np.ix_(rows.astype(int), columns.astype(int))]
        wanted.append(Target(thing.kind, thing.color, thing.pattern, box, mask))
    return wanted


def _size(found: Sequence[Found]) -> tuple[int, int] | None:
    """Height and width of the picture in which objects were recognised; where none was, no size matters."""
    return found[0].mask.shape if found else None


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks of one shape, 0 when both are empty."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two (x0, y0, x1, y1) boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both, 1e-9)


def assign(wanted: Sequence[Target], found: Sequence[Found]) -> list[Found | None]:
    """The object that each target takes, None for an absent one."""
    value = np.zeros((len(wanted), len(found)))
    for i, target in enumerate(wanted):
        for j, f in enumerate(found):
            if f.kind == target.kind:
                value[i, j] = 100 + 10 * (f.color == target.color) + mask_iou(f.mask, target.mask) + 0.01 * f.score
    taken: list[Found | None] = [None] * len(wanted)
    for i, j in zip(*linear_sum_assignment(-value)):
        if value[i, j] > 0:
            taken[i] = found[j]
    return taken


def _geometry(masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Log areas (n,) and centroids (n, 2) in pixels of non-empty masks."""
    centers = [np.array(np.nonzero(m)).mean(1)[::-1] for m in masks]
    return np.log([m.sum() for m in masks]), np.array(centers)


def geometry_errors(masks: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> tuple[float, float]:
    """What DGA's L_size and L_dist lower, on hard masks (n, H, W) bool, none empty, n >= 1.

    size: mean over pairs of |log(A_m / A_n) - log(R_m / R_n)|, for n = 1 |log(A / R)|. distance: mean over pairs of
    |(c_m - c_n) - (r_m - r_n)| / diagonal, for n = 1 |c - r| / diagonal.
    """
    (area, center), (area_ref, center_ref) = _geometry(masks), _geometry(references)
    ratio, shift = area - area_ref, (center - center_ref) / np.hypot(*masks[0].shape)
    if len(masks) > 1:
        m, n = np.triu_indices(len(masks), 1)
        ratio, shift = ratio[m] - ratio[n], shift[m] - shift[n]
    return float(np.abs(ratio).mean()), float(np.linalg.norm(shift, axis=1).mean())


def score(case: LayoutItem, found: Sequence[Found], background: str) -> dict[str, float]:
    """One image's numbers; nan where a metric does not exist (no region's object was found).

    mask_iou, box_iou, recall: means over the regions. color_acc, pattern_acc: over the found ones. extra_objects: 1 if
    an object was recognised that no region took. background_acc: 1 if the background is the prompt's. size_error,
    distance_error: see `geometry_errors`, over the found objects; nan when a pair is asked for and fewer were found.
    """
    wanted = targets(case, _size(found))
    taken = assign(wanted, found)
    pairs = [(w, f) for w, f in zip(wanted, taken) if f is not None]
    enough = len(pairs) >= min(2, len(wanted))
    masks, references = [f.mask for _, f in pairs], [w.mask for w, _ in pairs]
    size, distance = geometry_errors(masks, references) if enough else (np.nan, np.nan)
    return {
        "mask_iou": sum(mask_iou(w.mask, f.mask) for w, f in pairs) / len(wanted),
        "box_iou": sum(box_iou(w.box, f.box) for w, f in pairs) / len(wanted),
        "recall": len(pairs) / len(wanted),
        "color_acc": float(np.mean([w.color == f.color for w, f in pairs])) if pairs else np.nan,
        "pattern_acc": float(np.mean([w.pattern == f.pattern for w, f in pairs])) if pairs else np.nan,
        "extra_objects": float(len(found) > len(pairs)),
        "background_acc": float(background == case.background),
        "size_error": size,
        "distance_error": distance,
    }


def average_precision(right: np.ndarray, weight: np.ndarray, positives: float) -> np.ndarray:
    """(T,): area under precision over recall, at each of T thresholds.

    right (D, T): was the detection right, best score first; weight (D,): how often it counts; positives: how many there
    were to find. Precision is interpolated (the best at any higher recall) and averaged at 101 recalls as COCO does
    (Lin et al. 2014).
    """
    hits = np.cumsum(weight[:, None] * right, 0)
    precision = hits / np.maximum(np.cumsum(weight), 1e-9)[:, None]
    precision = np.maximum.accumulate(precision[::-1], 0)[::-1]
    values = []
    for r, p in zip((hits / positives).T, precision.T):
        at = np.searchsorted(r, np.linspace(0, 1, 101) - 1e-9)
        values.append(np.append(p, 0)[at].mean())
    return np.array(values)


class AveragePrecision:
    """Average precision of recognised boxes over all images, as a function of the images' counts.

    An object is right at a threshold when it overlaps (box IoU) a region of its kind in its image that no object of a
    higher score took; kinds are pooled, since a kind occurs in a few dozen regions only.
    """

    def __init__(self, cases: Sequence[LayoutItem], found: Sequence[Sequence[Found]], thresholds=(0.5,)):
        if len(cases) != len(found):
            raise ValueError(f"{len(cases)} cases but recognised objects of {len(found)} images: give one per case")
        rows = []
        for image, (case, objects) in enumerate(zip(cases, found)):
            wanted = targets(case, _size(objects))
            free = np.ones((len(wanted), len(thresholds)), bool)
            for f in sorted(objects, key=lambda f: -f.score):
                iou = np.array([box_iou(f.box, w.box) * (w.kind == f.kind) for w in wanted])
                right = []
                for t, threshold in enumerate(thresholds):
                    best = int((iou * free[:, t]).argmax())
                    right.append(bool(iou[best] * free[best, t] >= threshold))
                    free[best, t] &= not right[-1]
                rows.append((-f.score, image, *right))
        rows.sort()
        self.image = np.array([row[1] for row in rows], int)
        self.right = np.array([row[2:] for row in rows], float).reshape(len(rows), len(thresholds))
        self.regions = np.array([len(case.layout.regions) for case in cases], float)
        self.n = len(cases)

    def __call__(self, counts: np.ndarray) -> float:
        if not len(self.image):
            return 0.0
        return float(average_precision(self.right, counts[self.image], counts @ self.regions).mean())
