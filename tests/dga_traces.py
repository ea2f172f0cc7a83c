"""Traces of DGA on a tiny model."""

import numpy as np

from helpers.conditions import Layout, Region, encode_mask
from helpers.guidance.cfg import CFG
from helpers.guidance.dga import DGA
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace

DISC = np.hypot(*(np.indices((64, 64)) - 20)) < 12
LAYOUT = Layout(
    prompt="a red car and a blue fish",
    regions=[
        Region(phrase="red car", box=(0.125, 0.125, 0.5, 0.5), mask=encode_mask(DISC)),
        Region(phrase="blue fish", box=(0.5, 0.5, 1, 1), mask=encode_mask(DISC[::-1, ::-1])),
    ],
)
STEPS = 5
ASKED = {"none": (LAYOUT.boxes_only(), 0), "full": (LAYOUT.boxes_only(), 0.6), "full_masks": (LAYOUT.masks_only(), 0.6)}


def record(tiny, segmenter, layout, stop, seeds=(0, 1)) -> Trace:
    trace = Trace(range(len(seeds)))
    methods = [CFG(5), DGA(layouts=layout, segmenter=segmenter, window=(0, stop))]
    sample(tiny, [layout.prompt] * len(seeds), methods, steps=STEPS, seeds=seeds, trace=trace)
    return trace
