"""Plots of layout methods and their settings: what placement costs, what a search found, ablations."""

from collections.abc import Callable, Mapping
from itertools import cycle
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.figures.style import BASE, METHOD, OTHER, Metrics, arrow

LINEAR_BELOW = {"kernel_distance": 0.02, "seconds": 0.5}  # metrics that range over decades
SEARCHED = ("box_iou", "recall", "kernel_distance")


def front(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points (n,) no other one beats: none has a smaller x and at least the same y, or the same and more."""
    better = (x[None] <= x[:, None]) & (y[None] >= y[:, None]) & ((x[None] < x[:, None]) | (y[None] > y[:, None]))
    return ~better.any(1)


def pareto_plot(metrics: Metrics, title: str, by_attention: Callable[[str], bool]) -> Figure:
    """Box IoU against what it costs: kernel distance, CLIP-IQA and seconds, with 95 % intervals; hollow: defaults,
    filled: tuned, orange: with DGA. The line joins the cases that no other one beats."""
    fig = Figure(figsize=(16, 5.4), layout="constrained")
    costs = {"kernel_distance": 1, "clip_iqa": -1, "seconds": 1}
    for ax, (cost, sign) in zip(fig.subplots(1, len(costs), sharey=True), costs.items(), strict=True):
        _pareto(ax, metrics, cost, sign, by_attention)
    fig.suptitle(title, fontsize=10)
    return fig


def _pareto(ax: Axes, metrics: Metrics, cost: str, sign: int, by_attention: Callable[[str], bool]) -> None:
    cases = [case for case in metrics if not pd.isna(metrics[case][cost]["mean"])]
    x, y = (np.array([metrics[case][name]["mean"] for case in cases]) for name in (cost, "box_iou"))
    on_front = front(sign * x, y)
    order = np.argsort(y[on_front])
    ax.plot(x[on_front][order], y[on_front][order], color="0.8", lw=5, zorder=0, solid_capstyle="round")
    for k, case in enumerate(cases):
        color = BASE if case == "none" else METHOD if by_attention(case) else OTHER
        entries = [metrics[case][name] for name in (cost, "box_iou")]
        ends = [[[entry["mean"] - entry["lo"]], [entry["hi"] - entry["mean"]]] for entry in entries]
        face = color if case.endswith("_tuned") else "white"
        ax.errorbar(
            x[k], y[k], xerr=np.abs(ends[0]), yerr=np.abs(ends[1]), fmt="o", color=color, mfc=face, lw=0.8, ms=5
        )
        if case.endswith("_tuned") or case == "none":
            ax.annotate(case.removesuffix("_tuned"), (x[k], y[k]), (6, 4), textcoords="offset points", fontsize=7.5)
    if cost in LINEAR_BELOW:
        ax.set_xscale("symlog", linthresh=LINEAR_BELOW[cost])
    ax.set_xlabel(f"{cost} {arrow(cost)}")
    ax.set_ylabel("box_iou ↑")


def search_table(searches: Mapping[str, Mapping]) -> pd.DataFrame:
    """One line per case and options tried: means on the dev split; best: what the tuned case uses."""
    rows = [
        {"case": case, "options": said(tried["options"]), "best": tried["options"] == found["best"]}
        | {name: tried[name]["mean"] for name in (*SEARCHED, "attribute_acc", "seconds")}
        for case, found in searches.items()
        for tried in found["tried"]
    ]
    return pd.DataFrame(rows).round(4)


def said(options: Mapping) -> str:
    def short(value) -> str:
        return " to ".join(map(str, value.values())) if isinstance(value, Mapping) else str(value)

    return ", ".join(f"{name} {short(value)}" for name, value in options.items()) or "defaults"


def search_plot(searches: Mapping[str, Mapping], title: str) -> Figure:
    """A panel per case: box IoU of the options that were tried, with 95 % intervals, the best in blue."""
    columns = 2
    rows = -(-len(searches) // columns)
    fig = Figure(figsize=(13, 1.9 * rows + 0.5), layout="constrained")
    axes = list(fig.subplots(rows, columns, squeeze=False, sharex=True).flat)
    for ax, (case, found) in zip(axes, searches.items(), strict=False):
        for k, tried in enumerate(found["tried"]):
            iou = tried["box_iou"]
            best = tried["options"] == found["best"]
            ax.plot([iou["lo"], iou["hi"]], [k, k], color=METHOD if best else BASE)
            ax.plot(iou["mean"], k, "o", color=METHOD if best else BASE)
        ax.set_yticks(
            range(len(found["tried"])), [fill(said(tried["options"]), 52) for tried in found["tried"]], fontsize=7
        )
        ax.invert_yaxis()
        ax.set_title(case, fontsize=9)
    for ax in axes[len(searches) :]:
        ax.set_axis_off()
    fig.suptitle(f"box IoU, {title}", fontsize=10)
    return fig


def points_plot(ablations: Mapping[str, Metrics], names: tuple[str, ...], title: str) -> Figure:
    """A row per ablation, a column per metric: every point's mean with its 95 % interval."""
    heights = [len(points) + 1.6 for points in ablations.values()]
    fig = Figure(figsize=(3.0 * len(names) + 2, 0.24 * sum(heights) + 0.6), layout="constrained")
    grid = fig.subplots(len(ablations), len(names), squeeze=False, sharey="row", sharex="col", height_ratios=heights)
    palette = dict(zip(ablations, cycle(sns.color_palette("colorblind")), strict=False))
    for axes, (ablation, points) in zip(grid, ablations.items(), strict=True):
        for ax, name in zip(axes, names, strict=True):
            for k, entries in enumerate(points.values()):
                ax.plot([entries[name]["lo"], entries[name]["hi"]], [k, k], color=palette[ablation])
                ax.plot(entries[name]["mean"], k, "o", color=palette[ablation], ms=4)
            ax.set_yticks(range(len(points)), list(points), fontsize=7.5)
            ax.set_ylim(len(points) - 0.4, -0.6)
        axes[0].set_title(ablation.replace("_", " "), fontsize=9, loc="left")
    for ax, name in zip(grid[-1], names, strict=True):
        if name in LINEAR_BELOW:
            ax.set_xscale("symlog", linthresh=LINEAR_BELOW[name])
        ax.set_xlabel(f"{name} {arrow(name)}", fontsize=8.5)
    fig.suptitle(title, fontsize=10)
    return fig
