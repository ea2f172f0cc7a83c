"""How well images keep to what a prompt says: attributes and relations of the objects that the judge recognised."""

from collections.abc import Sequence

import numpy as np

from helpers.benchmarks.base import LayoutItem
from helpers.judges.base import Found
from helpers.metrics.layout import assign, targets

OVERLAP = 12 / 64**2  # share of the picture that two boxes have in common at least where one object is in front


def holds(word: str, one: Found, other: Found) -> bool:
    """Is the relation true of two recognised objects?

    Left of, right of, above, below: the centres' larger offset points that way (T2I-CompBench, Huang et al. 2023). In
    front of, behind: the boxes overlap, and most of what lies in both belongs to the one in front.
    """
    (dx, dy) = (np.array(np.nonzero(one.mask)).mean(1) - np.array(np.nonzero(other.mask)).mean(1))[::-1]
    along = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}
    if word in along:
        offset, across = along[word]
        return bool(offset > 0 and offset >= abs(across))
    x0, y0 = np.maximum(one.box[:2], other.box[:2])
    x1, y1 = np.minimum(one.box[2:], other.box[2:])
    if min(x1 - x0, y1 - y0) <= 0 or (x1 - x0) * (y1 - y0) < OVERLAP * one.mask.size:
        return False
    mine, theirs = (f.mask[y0:y1, x0:x1].sum() for f in (one, other))
    return bool(mine > theirs if word == "in front of" else theirs > mine)


def score(case: LayoutItem, found: Sequence[Found]) -> dict[str, float]:
    """One image's numbers. attribute_acc: share of the objects that are there in the colour and pattern that the prompt
    names. relation_acc: share of the stated relations that hold; an absent object makes both false, nan without any.
    """
    wanted = targets(case, found[0].mask.shape if found else None)
    taken = assign(wanted, found)
    right = [f is not None and (f.color, f.pattern) == (w.color, w.pattern) for w, f in zip(wanted, taken)]
    true = [
        taken[i] is not None and taken[j] is not None and holds(word, taken[i], taken[j])
        for i, word, j in case.relations
    ]
    return {"attribute_acc": float(np.mean(right)), "relation_acc": float(np.mean(true)) if true else float("nan")}
