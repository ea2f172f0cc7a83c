"""What figures and explorers read of Traces: a guide's masks, and where a method acts."""

from copy import copy

import numpy as np
import torch

from helpers.figures import overlay
from helpers.sampling.trace import Record, Trace

NO_METHODS = ("cfg", "attention", "steps")  # what of a Trace's settings has no window of its own
TERMS = ("coverage", "size", "distance")  # of DGA's loss


def masks_of(record: Record, step: int) -> np.ndarray:
    """What the guide found at a step, bool (N, SIDE, SIDE)."""
    return overlay.crisp(torch.from_numpy(record.maps["dga.masks"][step]).float() / 255)


def window_of(trace: Trace, method: str = "dga") -> tuple[float, float]:
    """First guided step and the one after the last, as the steps' places on an axis (half a step to either side)."""
    window = trace.settings.get(method, {}).get("window", {"start": 0, "stop": 0})
    steps = len(trace.timesteps)
    first, last = (int(np.ceil(window[key] * steps - 1e-6)) for key in ("start", "stop"))
    return first - 0.5, last - 0.5


def windows_of(trace: Trace) -> dict[str, tuple[float, float]]:
    """Where each method of a run acts, as `window_of` has it; iLGD's injection is one of its own."""
    methods = {name: own for name, own in trace.settings.items() if name not in NO_METHODS and own.get("weight") != 0}
    ilgd = trace.settings.get("ilgd", {})
    if ilgd.get("injection"):
        methods["injection"] = {"window": ilgd["injection_window"]}
    apart = copy(trace)
    apart.settings = methods
    windows = {name: window_of(apart, name) for name in methods}
    return {name: (first, last) for name, (first, last) in windows.items() if first < last}


def energies_of(trace: Trace, record: Record) -> dict[str, np.ndarray]:
    """What each method that has an energy minimises, method -> (S,), NaN where it does not act."""
    steps = np.arange(len(trace.timesteps))
    return {
        name: np.where((first < steps) & (steps < last), record.curves[name], np.nan)
        for name, (first, last) in windows_of(trace).items()
        if name in record.curves
    }
