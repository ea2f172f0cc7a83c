"""Metrics as a coloured table: means, and differences that are told from zero."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from helpers.figures.style import LESS_IS_BETTER, NEITHER, Metrics, arrow

UNKNOWN = dict.fromkeys(("mean", "lo", "hi"), np.nan)  # a difference to a case that was not run


def ablation_table(
    metrics: Metrics, names: Sequence[str], title: str, against: Mapping[str, str] | None = None
) -> Figure:
    """Rows: cases; columns: metrics; a cell holds the mean and a paired difference with its interval.

    Blue cells are better than what they are compared with, orange ones worse, with an interval that excludes zero; grey
    ones say neither. against: metric -> key of the difference, "diff" if not stated.
    """
    keys = {name: (against or {}).get(name, "diff") for name in names}
    diffs = [[entries[name].get(keys[name], UNKNOWN) for name in names] for entries in metrics.values()]
    verdicts = [[_verdict(name, diff) for name, diff in zip(names, line, strict=True)] for line in diffs]
    means = [[entries[name]["mean"] for name in names] for entries in metrics.values()]
    texts = [[_cell(*cell) for cell in zip(*lines, strict=True)] for lines in zip(means, diffs, strict=True)]
    fig = Figure(figsize=(1.75 * len(names) + 2.2, 0.5 * len(metrics) + 0.9), layout="constrained")
    ax = fig.subplots()
    colors = ListedColormap(["#f6c9a0", "#f2f2f2", "#a9d3ee"])
    sns.heatmap(
        verdicts, vmin=-1, vmax=1, cmap=colors, annot=np.array(texts), fmt="", cbar=False, linewidths=2,
        annot_kws={"fontsize": 8.5, "color": "black"}, ax=ax,
    )  # fmt: skip
    ax.set_xticklabels([f"{name} {arrow(name)}" for name in names], fontsize=9)
    ax.set_yticklabels(list(metrics), rotation=0, fontsize=9)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    fig.suptitle(title, fontsize=10)
    return fig


def _verdict(name: str, diff: Mapping) -> int:
    """1 where the interval of a difference says better, -1 where it says worse, 0 where it includes zero."""
    if pd.isna(diff["mean"]) or name in NEITHER:
        return 0
    return (-1 if name in LESS_IS_BETTER else 1) * ((diff["lo"] > 0) - (diff["hi"] < 0))


def _cell(mean: float, diff: Mapping) -> str:
    if pd.isna(mean):  # such as the colours of objects that are never there
        return "-"
    digits = 3 if abs(mean) < 10 else 1 if abs(mean) < 1000 else 0
    if pd.isna(diff["mean"]):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f}\n{diff['mean']:+.{digits}f} [{diff['lo']:+.{digits}f}, {diff['hi']:+.{digits}f}]"
