"""Plots of layout methods and their settings: what placement costs, what a search found."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from helpers.figures.dots import scaled
from helpers.figures.labels import place_labels
from helpers.figures.style import BASE, METHOD, SMALL, WIDTH, Metrics, titled
from helpers.figures.words import INTERVALS, LESS_IS_BETTER, axis

SEARCHED = ("box_iou", "recall", "kernel_distance")


def front(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points (n,) no other one beats: none has a smaller x and at least the same y, or the same and more."""
    better = (x[None] <= x[:, None]) & (y[None] >= y[:, None]) & ((x[None] < x[:, None]) | (y[None] > y[:, None]))
    return ~better.any(1)


def pareto_plot(
    metrics: Metrics,
    message: str,
    note: str,
    colors: Mapping[str, str],
    costs=("kernel_distance", "nfe"),
    gain: str = "box_iou",
) -> Figure:
    """A gain against what it costs, with 95 % intervals; the band joins the cases that no other one beats.

    metrics: case in words -> metric -> entry; colors: of each case.
    """
    note = f"{note}; {INTERVALS}. Grey band: the cases that no other one beats in both numbers."
    fig = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    drawn = []
    for ax, cost in zip(fig.subplots(1, len(costs), sharey=True), costs, strict=True):
        cases = [case for case in metrics if not pd.isna(metrics[case][cost]["mean"])]
        x, y = (np.array([metrics[case][name]["mean"] for case in cases]) for name in (cost, gain))
        best = front(x if cost in LESS_IS_BETTER else -x, y)
        order = np.argsort(y[best])
        ax.plot(x[best][order], y[best][order], color="0.88", lw=7, zorder=0, solid_capstyle="round")
        for k, case in enumerate(cases):
            entries = [metrics[case][name] for name in (cost, gain)]
            ends = [[[entry["mean"] - entry["lo"]], [entry["hi"] - entry["mean"]]] for entry in entries]
            ax.errorbar(x[k], y[k], *np.abs(ends[::-1]), fmt="o", color=colors[case], lw=0.7, ms=5, zorder=2)
        scaled(ax, cost, x)
        ax.set_xlabel(axis(cost))
        ax.margins(x=0.12)
        drawn.append((ax, np.stack([x, y], 1), cases))
    drawn[0][0].set_ylabel(axis(gain, "y"))
    titled(fig, message, note)
    for ax, points, cases in drawn:
        place_labels(ax, points, cases, [colors[case] for case in cases])
    return fig


def budget_plot(
    searches: Mapping[str, Sequence[Mapping]], colors: Mapping[str, str], message: str, note: str
) -> Figure:
    """Box IoU of all settings tried against their evaluations, and the best that was had for as many or fewer.

    searches: kind of method -> what the search of each has found; colors: of each kind.
    """
    fig = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    ax = fig.subplots()
    for kind, found in searches.items():
        tried = sorted((one["nfe"]["mean"], one["box_iou"]["mean"]) for search in found for one in search["tried"])
        if not tried:
            continue
        x, y = np.array(tried).T
        ax.plot(x, y, "o", color=colors[kind], ms=4, alpha=0.45, mew=0)
        ax.step(x, np.maximum.accumulate(y), color=colors[kind], where="post", lw=1.8, label=kind)
    ax.set_xscale("log")
    ticks = np.array([40, 60, 100, 150, 250, 400, 600])
    low, high = ax.get_xlim()
    ax.set_xticks(ticks[(low <= ticks) & (ticks <= high)])
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(axis("nfe"))
    ax.set_ylabel(axis("box_iou", "y"))
    ax.legend(frameon=False, loc="center right")
    return titled(fig, message, note)


def search_table(searches: Mapping[str, Mapping]) -> pd.DataFrame:
    """One line per case and options tried: means on the dev split; best: what the tuned case uses."""
    rows = [
        {"case": case, "options": said(tried["options"]), "best": tried["options"] == found["best"]}
        | {name: tried[name]["mean"] for name in (*SEARCHED, "attribute_acc", "nfe")}
        for case, found in searches.items()
        for tried in found["tried"]
    ]
    return pd.DataFrame(rows).round(4)


def said(options: Mapping) -> str:
    """Options in words: windows as shares of the steps, a strength as its rule and scale."""

    def short(value) -> str:
        match value:
            case {"start": start, "stop": stop}:
                return f"{100 * start:.0f}–{100 * stop:.0f} %"
            case {"rule": rule, "scale": scale}:
                return f"{rule} {scale:g}"
            case Mapping():
                return f"({said(value)})"
        return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")

    return ", ".join(f"{name.replace('_', ' ')} {short(value)}" for name, value in options.items()) or "as in the paper"


def search_plot(searches: Mapping[str, Mapping], message: str, note: str) -> Figure:
    """A row per case: box IoU of all options that were tried, the best in blue with its interval and in words."""
    fig = Figure(figsize=(WIDTH, 0.46 * len(searches) + 1.1), layout="constrained")
    ax = fig.subplots()
    for row, found in enumerate(searches.values()):
        for tried in found["tried"]:
            iou, best = tried["box_iou"], tried["options"] == found["best"]
            if best:
                ax.plot([iou["lo"], iou["hi"]], [row, row], color=METHOD, lw=1.5, zorder=2)
            ax.plot(iou["mean"], row, "o", color=METHOD if best else BASE, mfc=METHOD if best else "white", ms=5)
    ax.set_yticks(range(len(searches)), list(searches))
    ax.set_ylim(len(searches) - 0.5, -0.5)
    ax.set_xlabel(axis("box_iou"))
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(searches)), [fill(said(found["best"]), 58) for found in searches.values()])
    right.tick_params(labelsize=SMALL, length=0)
    return titled(fig, message, note)
