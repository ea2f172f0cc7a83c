"""Plots of metrics with 95 % intervals: over strengths, values of a knob, numbers of objects."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.figures.labels import place_labels
from helpers.figures.style import BASE, METHOD, SMALL, WIDTH, Metrics, titled
from helpers.figures.words import DISTANCE, INTERVALS, axis, metric
from helpers.metrics import stats


def objects_plot(images: pd.DataFrame, names: Sequence[str], message: str, note: str) -> Figure:
    """One panel per caption (rows) and metric (columns): means over the number of objects with 95 % intervals, by
    guidance; under a number of objects stands of how many pictures it is.

    images: a line per image with "guidance" (none or full), "caption", "objects" and the metrics.
    """
    captions = images["caption"].unique()
    fig = Figure(figsize=(WIDTH, 1.85 * len(captions) + 0.9), layout="constrained")
    grid = fig.subplots(len(captions), len(names), squeeze=False, sharey=True)
    looks = {"none": (BASE, "unguided", -0.1), "full": (METHOD, "guided", 0.1)}
    for axes, caption in zip(grid, captions, strict=True):
        chosen = images[images["caption"] == caption]
        for ax, name in zip(axes, names, strict=True):
            known = chosen.dropna(subset=name)
            for guidance, (color, label, shift) in looks.items():
                own = known[known["guidance"] == guidance].groupby("objects")[name]
                found = pd.DataFrame([stats.mean(values.to_numpy()) for _, values in own], index=list(own.groups))
                if len(found):
                    ends = np.abs([found["lo"] - found["mean"], found["hi"] - found["mean"]])
                    x = found.index + shift
                    ax.errorbar(x, found["mean"], ends, fmt="o-", color=color, ms=4, lw=1.3, label=label)
            counts = known[known["guidance"] == "full"].groupby("objects").size()
            ax.set_xticks(counts.index, [f"{objects}\n({n})" for objects, n in counts.items()])
            ax.set(title=metric(name).capitalize() if ax in grid[0] else "", ylim=(0, 1.05))
        axes[0].set_ylabel(f"{caption} captions")
    for ax in grid[-1]:
        ax.set_xlabel("objects in the prompt (n)")
    grid[0, 0].legend(fontsize=SMALL, loc="lower left")
    return titled(fig, message, f"{note}; in brackets: n; {INTERVALS}.")


def strength_plot(sweep: Metrics, name: str, message: str, note: str) -> Figure:
    """Left: the metric over strength. Right: what it costs, the metric against kernel distance; numbers are strengths.

    sweep: strength -> metric -> entry, 0 is the baseline.
    """
    scales = sorted(sweep, key=float)
    at = [float(scale) for scale in scales]
    gain, far = (
        {key: np.array([sweep[scale][of][key] for scale in scales], float) for key in ("mean", "lo", "hi")}
        for of in (name, "kernel_distance")
    )
    fig = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    left, right = fig.subplots(1, 2, sharey=True)
    left.plot(at, gain["mean"], "o-", color=METHOD)
    left.fill_between(at, gain["lo"], gain["hi"], color=METHOD, alpha=0.2, lw=0)
    xerr, yerr = ([found["mean"] - found["lo"], found["hi"] - found["mean"]] for found in (far, gain))
    right.errorbar(far["mean"], gain["mean"], xerr=xerr, yerr=yerr, fmt="o", color=METHOD, ecolor="0.75", lw=1)
    left.set(xlabel="strength (0: unguided)", ylabel=axis(name, "y"))
    right.set(xlabel=axis("kernel_distance"))
    n = sweep[scales[0]][name]["n"]
    titled(fig, message, f"{note}; n\u00a0=\u00a0{n}; {INTERVALS}. Numbers on the right are strengths. {DISTANCE}.")
    place_labels(right, list(zip(far["mean"], gain["mean"], strict=True)), [f"{scale:g}" for scale in at])
    return fig


def curves_plot(
    curves: Mapping[str, Metrics],
    names: Mapping[str, str],
    knobs: Mapping[str, tuple[str, str]],
    message: str,
    note: str,
) -> Figure:
    """One panel per curve: its metric over the knob's values with 95 % intervals; dashed: unguided.

    curves: curve -> value -> metric -> entry, the value "none" is the baseline. names: curve -> metric. knobs: curve ->
    title, and what is on the axis.
    """
    columns = min(len(curves), 4)
    rows = -(-len(curves) // columns)
    fig = Figure(figsize=(WIDTH, 1.95 * rows + 0.8), layout="constrained")
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax, (curve, values) in zip(axes, curves.items(), strict=False):
        name, (title, along) = names[curve], knobs[curve]
        at = [value for value in values if value != "none"]
        mean, lo, hi = ([values[value][name][key] for value in at] for key in ("mean", "lo", "hi"))
        x = [float(value) for value in at]
        ax.plot(x, mean, "o-", color=METHOD, ms=4)
        ax.fill_between(x, lo, hi, color=METHOD, alpha=0.2, lw=0)
        ax.axhline(values["none"][name]["mean"], color=BASE, ls="--", lw=1)
        ax.set(title=title, xlabel=along, ylabel=axis(name, "y"))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_locator(MaxNLocator(4))
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    counts = sorted({values[value][names[curve]]["n"] for curve, values in curves.items() for value in values})
    n = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return titled(fig, message, f"{note}; n\u00a0=\u00a0{n}; {INTERVALS}. Dashed: unguided.")


def tradeoff_plot(
    sweeps: Mapping[str, Metrics], names: Mapping[str, str], titles: Mapping[str, str], message: str, note: str
) -> Figure:
    """What strength buys and costs: each module's metric against kernel distance (a Frechet distance would need more
    pictures than a judge's feature has numbers), points labelled by strength.

    sweeps: module -> factor of the tuned strength -> metric -> entry, "none" is the baseline. titles: of modules.
    """
    fig, drawn = Figure(figsize=(WIDTH, 3.6), layout="constrained"), []
    for ax, (module, sweep) in zip(np.atleast_1d(fig.subplots(1, max(len(sweeps), 1))), sweeps.items(), strict=False):
        name, order = names[module], sorted(sweep, key=lambda value: -1 if value == "none" else float(value))
        entries = [[sweep[value][key] for value in order] for key in ("kernel_distance", name)]
        x, y = ([entry["mean"] for entry in of] for of in entries)
        ends = [np.abs([[entry[end] - entry["mean"] for entry in of] for end in ("lo", "hi")]) for of in entries]
        ax.errorbar(x, y, ends[1], ends[0], fmt="o", color=METHOD, ecolor="0.8", lw=1, ms=5)
        ax.set(xlabel=axis("kernel_distance"), ylabel=axis(name, "y"), title=titles[module])
        ax.xaxis.set_major_locator(MaxNLocator(4))
        drawn.append((ax, list(zip(x, y, strict=True)), ["unguided" if v == "none" else f"{v} ×" for v in order]))
    counts = sorted({found[names[module]]["n"] for module, sweep in sweeps.items() for found in sweep.values()})
    n = f"; n\u00a0=\u00a0{counts[-1]}" if counts else ""
    titled(fig, message, f"{note}{n}; {INTERVALS}. {DISTANCE}.")
    for place in drawn:
        place_labels(*place)
    return fig
