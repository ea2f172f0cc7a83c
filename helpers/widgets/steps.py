"""The explorer of steps, for any method: x0_hat of baseline and method, and what each method minimises."""

from collections.abc import Mapping
from pathlib import Path

import ipywidgets as widgets
import numpy as np

from helpers.figures import overlay
from helpers.figures.traces import energies_of, windows_of
from helpers.sampling.trace import Trace
from helpers.widgets.common import Column, Frames, checked, energy_panels, explore, marked, panels, png
from helpers.widgets.lifetime import Explorer, cell, reopened

NO_LOSS = "eff_cfg"  # is shown of a method that minimises nothing: the size of its whole guidance


def explore_steps(traces: Mapping[str, Trace] | str | Path) -> Explorer:
    """Baseline beside method, step by step: x0_hat decoded and the energies.

    traces: case -> Trace, the baseline first, all of the same prompts, seeds and steps; or a folder with <case>/trace.
    """
    traces = checked(traces, [], "steps", "Trace")

    def frames(case: str, k: int, compared: str) -> Frames:
        record, steps = traces[case].records[k], len(traces[case].timesteps)
        names = list(energies_of(traces[compared], traces[compared].records[k])) or [NO_LOSS]
        energies = energies_of(traces[case], record) | {NO_LOSS: record.curves[NO_LOSS]}
        titles = [f"energy: {name}" if name != NO_LOSS else "effective CFG" for name in names]
        fig, axes = panels(titles, windows_of(traces[case]), steps)
        energy_panels(axes, energies, names, steps)
        pictures = [png(overlay.enlarge(frame)) for frame in record.frames]
        return Frames([pictures], marked(fig, axes, steps), np.zeros((steps, 0)))

    return reopened(
        "steps",
        cell(),
        lambda before: explore("steps", traces, windows_of, _column, frames, lambda *_: "", chosen_before=before),
    )


def _column() -> Column:
    image = widgets.Image(format="png", layout={"width": "60%"})
    return Column("x&#770;<sub>0</sub> decoded", [image], [image])
