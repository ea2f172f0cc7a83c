"""Benchmark cases and recognised objects made by hand, of rectangles."""

import numpy as np

from helpers.benchmarks.miniature import Case
from helpers.conditions import Layout, Region, encode_mask
from helpers.judges.base import Found
from helpers.miniature.items import Named


def block(x0, y0, x1, y1):
    """A mask (64, 64)."""
    mask = np.zeros((64, 64), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def found(kind, color, x0, y0, x1, y1, score=0.9, pattern="plain"):
    return Found(kind, color, pattern, score, (x0, y0, x1, y1), block(x0, y0, x1, y1))


def case(*things, background="grass"):
    """A benchmark case of rectangular things: (kind, color, x0, y0, x1, y1)."""
    prompt = " and ".join(f"a {color} {kind}" for kind, color, *_ in things)
    regions = [
        Region(phrase=f"{c} {k}", box=tuple(v / 64 for v in box), mask=encode_mask(block(*box)))
        for k, c, *box in things
    ]
    names = tuple(Named(kind=k, color=c, pattern="plain", size="small") for k, c, *_ in things)
    written = Layout(prompt=prompt, regions=tuple(regions))
    return Case(id="x-0", seed=1, prompt=prompt, seen=True, background=background, layout=written, things=names)
