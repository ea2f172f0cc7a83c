"""Metrics as dots with their intervals, in the place of tables: rows are cases, panels are metrics."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from helpers.figures.style import BASE, METHOD, OTHER, WIDTH, Metrics, titled
from helpers.figures.words import INTERVALS, LESS_IS_BETTER, NEITHER, axis

UNCLEAR = "#a0a0a0"
VERDICTS = "Blue is better, orange worse, grey: the interval holds zero (or neither way is better)"


def dots_plot(
    series: Mapping[str, Metrics],
    names: Sequence[str],
    message: str,
    note: str,
    differences: Mapping[str, str] | str | None = None,
    colors: Mapping[str, str] | None = None,
    columns: int = 3,
) -> Figure:
    """A row per case, a panel per metric: mean and 95 % interval.

    series: what it is -> case in words -> metric -> entry; of several the last is filled, the others are hollow. A case
    without entries is a heading. differences: the key of the paired difference that is shown instead of the mean, for
    all metrics or for each. colors: case -> colour of its means; from a grey one, a baseline, dashes go on.
    """
    rows = list(dict.fromkeys(case for metrics in series.values() for case in metrics))
    sizes = {case: _sizes([m[case] for m in series.values() if case in m], names) for case in rows}
    counts = {max(own) for own in sizes.values() if own}
    lines = -(-len(names) // columns)
    fig = Figure(figsize=(WIDTH, lines * (0.185 * len(rows) + 0.62) + 0.95), layout="constrained")
    axes = list(fig.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for ax, name in zip(axes, names, strict=False):
        key = differences.get(name, "diff") if isinstance(differences, Mapping) else differences
        _panel(ax, series, rows, name, key, colors or {})
        of = {n for case in rows for m in series.values() for n in _sizes([m.get(case, {})], [name])}
        few = f"{min(of)} to {max(of)}" if len(of) > 1 else f"{max(of, default=0)}"
        ax.set_xlabel(axis(name) + (f" (n = {few})" if of and max(of) < max(counts) else ""))
    said = [f"{case} ({max(own)})" if own and len(counts) > 1 else case for case, own in sizes.items()]
    axes[0].set_yticks(range(len(rows)), said)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    for label, case in zip(axes[0].get_yticklabels(), rows, strict=True):
        label.set_fontweight("normal" if sizes[case] else "bold")
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    n = f"n\u00a0=\u00a0{max(counts, default=0)}" if len(counts) < 2 else "in brackets: n"
    verdict = f". {VERDICTS}" if differences else ""
    return titled(fig, message, f"{note}; {n}; {INTERVALS}{verdict}.")


def _sizes(entries: Sequence[Mapping], names: Sequence[str]) -> set[int]:
    return {found[name]["n"] for found in entries for name in names if name in found and found[name]["n"]}


def _panel(ax: Axes, series: Mapping[str, Metrics], rows: Sequence[str], name: str, key: str | None, colors) -> None:
    shift = 0.36 / max(len(series) - 1, 1) if len(series) > 1 else 0
    ends = []
    for k, metrics in enumerate(series.values()):
        for row, case in enumerate(rows):
            entry = metrics.get(case, {}).get(name)
            shown = entry.get(key) if entry and key else entry
            if not shown or pd.isna(shown["mean"]):
                continue
            color = verdict(name, shown) if key else colors.get(case, METHOD)
            y, last = row + shift * (k - (len(series) - 1) / 2), k == len(series) - 1
            ax.plot([shown["lo"], shown["hi"]], [y, y], color=color, lw=1.3, zorder=2)
            ax.plot(shown["mean"], y, "o", color=color, mfc=color if last else "white", ms=4.2, zorder=3)
            ends += [shown["lo"], shown["hi"]]
            if not key and color == BASE:
                following = next((n for n in range(row + 1, len(rows)) if colors.get(rows[n]) == BASE), len(rows))
                ax.plot([shown["mean"]] * 2, [row, following - 0.6], "--", color=BASE, lw=1, zorder=1)
    if key:
        ax.axvline(0, color="0.3", lw=0.8, zorder=1)
    ax.grid(axis="y", color="0.94")
    scaled(ax, name, ends)


def scaled(ax: Axes, name: str, ends: Sequence[float]) -> None:
    """Few ticks; a kernel distance that ranges over decades gets a logarithm beyond .1."""
    if name == "kernel_distance" and np.nanmax(np.abs(ends), initial=0) > 1:
        ax.set_xscale("symlog", linthresh=0.1, linscale=0.6)
        decades = np.array([-10, -1, -0.1, 0, 0.1, 1, 10, 100])
        ticks = decades[(decades >= min(0, np.nanmin(ends))) & (decades <= max(0, np.nanmax(ends)))]
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))


def verdict(name: str, diff: Mapping) -> str:
    """The colour of a difference: is it better, worse, or not told from zero?"""
    sign = 0 if name in NEITHER else int(diff["lo"] > 0) - int(diff["hi"] < 0)
    return {0: UNCLEAR, 1: METHOD, -1: OTHER}[-sign if name in LESS_IS_BETTER else sign]
