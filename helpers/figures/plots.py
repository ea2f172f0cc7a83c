"""Plots of metrics with 95 % intervals: over cases, strengths, values of a knob, numbers of objects."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from helpers.figures.style import BASE, METHOD, Metrics, arrow


def cases_plot(metrics: Metrics, names: Sequence[str], title: str) -> Figure:
    """One panel per metric, one point per case: mean with its 95 % interval; the dashed line is the case none."""
    fig = Figure(figsize=(2.25 * len(names) + 1.2, 0.33 * len(metrics) + 1.4), layout="constrained")
    for ax, name in zip(np.atleast_1d(fig.subplots(1, len(names), sharey=True)), names, strict=True):
        rows = [(case, entries[name][key]) for case, entries in metrics.items() for key in ("lo", "mean", "hi")]
        frame = pd.DataFrame(rows, columns=["case", name]).astype({name: float})
        # of three numbers, the median is the mean of the metric and the range its interval
        style = {"estimator": "median", "errorbar": ("pi", 100), "linestyle": "none", "markersize": 5}
        sns.pointplot(frame, x=name, y="case", color=METHOD, ax=ax, err_kws={"linewidth": 2}, **style)
        ax.axvline(metrics["none"][name]["mean"], color=BASE, ls="--", lw=1)
        ax.set(ylabel="", xlabel=f"{name} {arrow(name)}")
    fig.suptitle(title, fontsize=10)
    return fig


def objects_plot(images: pd.DataFrame, names: Sequence[str], title: str) -> Figure:
    """One panel per caption (rows) and metric (columns): means over the number of objects with 95 % intervals, by
    guidance.

    images: a line per image with "guidance" (none or full), "caption", "objects" and the metrics.
    """
    captions = images["caption"].unique()
    fig = Figure(figsize=(3.0 * len(names) + 0.8, 1.9 * len(captions) + 0.6), layout="constrained")
    grid = fig.subplots(len(captions), len(names), squeeze=False, sharex=True, sharey=True)
    palette = {"none": BASE, "full": METHOD}
    for axes, caption in zip(grid, captions, strict=True):
        chosen = images[images["caption"] == caption]
        for ax, name in zip(axes, names, strict=True):
            sns.pointplot(
                chosen, x="objects", y=name, hue="guidance", hue_order=palette, palette=palette, ax=ax, seed=0,
                native_scale=True, dodge=0.15, markersize=4, linewidth=1.5, err_kws={"linewidth": 1.2},
            )  # fmt: skip
            ax.set(title=name if ax in grid[0] else "", xlabel="", ylabel="", ylim=(0, 1.05))
            ax.get_legend().remove()
        axes[0].set_ylabel(f"{caption} captions")
    for ax in grid[-1]:
        ax.set_xlabel("objects in the prompt")
    grid[0, 0].legend(fontsize=8, loc="lower left")
    fig.suptitle(title + "; 5 and 6 objects lie outside the training distribution", fontsize=10)
    return fig


def strength_plot(sweep: Metrics, metric: str, title: str) -> Figure:
    """Left: the metric over strength. Right: what it costs, the metric against kernel distance; numbers are strengths.

    sweep: strength -> metric -> entry, 0 is the baseline.
    """
    scales = sorted(sweep, key=float)
    at = [float(scale) for scale in scales]
    gain, far = (
        {key: np.array([sweep[scale][name][key] for scale in scales], float) for key in ("mean", "lo", "hi")}
        for name in (metric, "kernel_distance")
    )
    fig = Figure(figsize=(8, 3.1), layout="constrained")
    left, right = fig.subplots(1, 2, sharey=True)
    sns.lineplot(x=at, y=gain["mean"], marker="o", color=METHOD, ax=left)
    left.fill_between(at, gain["lo"], gain["hi"], color=METHOD, alpha=0.2, lw=0)
    xerr, yerr = ([found["mean"] - found["lo"], found["hi"] - found["mean"]] for found in (far, gain))
    right.errorbar(far["mean"], gain["mean"], xerr=xerr, yerr=yerr, fmt="o-", color=METHOD, ecolor="0.75", lw=1)
    for scale, x, y in zip(at, far["mean"], gain["mean"], strict=True):
        right.annotate(f"{scale:g}", (x, y), (5, 5), textcoords="offset points", fontsize=9)
    left.set(xlabel="strength", ylabel=f"{metric} ↑")
    right.set(xlabel="kernel distance ↓")
    fig.suptitle(title, fontsize=10)
    return fig


def curves_plot(curves: Mapping[str, Metrics], names: Mapping[str, str], title: str) -> Figure:
    """One panel per curve: its metric over the knob's values with 95 % intervals; dashed: unguided.

    curves: curve -> value -> metric -> entry, the value "none" is the baseline. names: curve -> metric.
    """
    columns = min(len(curves), 5)
    rows = -(-len(curves) // columns)
    fig = Figure(figsize=(2.9 * columns, 2.5 * rows + 0.4), layout="constrained")
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax, (curve, values) in zip(axes, curves.items(), strict=False):
        name = names[curve]
        at = [value for value in values if value != "none"]
        mean, lo, hi = ([values[value][name][key] for value in at] for key in ("mean", "lo", "hi"))
        x = [float(value) for value in at]
        ax.plot(x, mean, "o-", color=METHOD, ms=4)
        ax.fill_between(x, lo, hi, color=METHOD, alpha=0.2, lw=0)
        ax.axhline(values["none"][name]["mean"], color=BASE, ls="--", lw=1)
        ax.set_title(curve.replace("_", " "), fontsize=9)
        ax.set_ylabel(f"{name} {arrow(name)}", fontsize=8)
        ax.tick_params(labelsize=8)
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    fig.suptitle(title, fontsize=10)
    return fig


def tradeoff_plot(sweeps: Mapping[str, Metrics], names: Mapping[str, str], title: str) -> Figure:
    """What strength buys and costs: each module's metric against kernel distance (a Frechet distance would need more
    pictures than a judge's feature has numbers), points labelled by strength.

    sweeps: module -> factor of the tuned strength -> metric -> entry, "none" is the baseline.
    """
    fig = Figure(figsize=(3.6 * max(len(sweeps), 1), 3.1), layout="constrained")
    for ax, (module, sweep) in zip(np.atleast_1d(fig.subplots(1, max(len(sweeps), 1))), sweeps.items(), strict=False):
        name, order = names[module], sorted(sweep, key=lambda value: -1 if value == "none" else float(value))
        x, y = ([sweep[value][key]["mean"] for value in order] for key in ("kernel_distance", name))
        ax.plot(x, y, "o-", color=METHOD)
        for value, place in zip(order, zip(x, y, strict=True), strict=True):
            ax.annotate(value, place, (5, 4), textcoords="offset points", fontsize=8)
        ax.set(xlabel="kernel distance ↓", ylabel=f"{name} {arrow(name)}", title=module)
    fig.suptitle(title, fontsize=10)
    return fig
