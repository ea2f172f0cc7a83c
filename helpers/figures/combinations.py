"""Plots of modules that act together: whether they pull the same way."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.figures.style import BASE, SMALL, WIDTH, titled
from helpers.sampling.trace import Trace

MODULES = {"dca": "text", "dga": "layout", "dma": "drag"}


def cosines_plot(traces: Mapping[str, Trace], message: str, note: str) -> Figure:
    """Do modules pull the same way? Cosine of their gradients over the steps, mean and range over the showcase; one
    panel per case that combines some."""
    curves = {
        case: {key for record in trace.records for key in record.curves if key.startswith("cosine.")}
        for case, trace in traces.items()
    }
    shown = {case: sorted(keys) for case, keys in curves.items() if keys}
    pairs = sorted({key for keys in shown.values() for key in keys})
    colors = dict(zip(pairs, cycle(sns.color_palette("colorblind"))))
    columns = min(max(len(shown), 1), 2)
    lines = max(-(-len(shown) // columns), 1)
    fig = Figure(figsize=(WIDTH, 2.3 * lines + 0.8), layout="constrained")
    grid = fig.subplots(lines, columns, squeeze=False, sharey=True)
    for ax, (case, keys) in zip(grid.flat, shown.items(), strict=False):
        for key in keys:
            values = np.stack([record.curves[key] for record in traces[case].records])
            known = np.flatnonzero(np.isfinite(values).all(0))
            pair = " and ".join(MODULES.get(name, name) for name in key.split(".")[1:])
            color = colors[key]
            ax.plot(known + 1, values[:, known].mean(0), color=color, label=pair)
            ends = values[:, known].min(0), values[:, known].max(0)
            ax.fill_between(known + 1, *ends, color=color, alpha=0.15)
        ax.axhline(0, color=BASE, ls="--", lw=1)
        ax.set(title=case, ylim=(-1.75, 1.05), yticks=(-1, -0.5, 0, 0.5, 1))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(keys) > 1:
            ax.legend(fontsize=SMALL, loc="lower center", ncols=2)
    for ax in grid[-1]:
        ax.set_xlabel("step")
    for ax in grid[:, 0]:
        ax.set_ylabel("cosine of gradients")
    for ax in grid.flat[len(shown) :]:
        ax.set_axis_off()
    pictures = max((len(trace.records) for trace in traces.values()), default=0)
    return titled(fig, message, f"{note}; mean and range of {pictures} pictures. 1: the same way, 0: across.")
