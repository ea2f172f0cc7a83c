"""Figures of best of N (`helpers.sampling.best_of`): what drawing again changed, and what it cost."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from helpers.figures import overlay
from helpers.figures.pictures import show
from helpers.figures.style import BASE, METHOD, Metrics, arrow

Tries = tuple[Sequence[np.ndarray], Sequence[Mapping]]  # pictures uint8 (H, W, 3), and the judge's row for each


def best_of_grid(
    pairs: Mapping[str, tuple[Tries, Tries]], prompts: Sequence[str], title: str, shown: int = 6
) -> Figure:
    """The first pictures of a benchmark that were drawn again, the first try above the kept one; two lines for each of
    `pairs`: name -> (without, with more tries).

    A row's "seed" says which try a picture is. prompts: in the order of the pictures.
    """
    fig = Figure(figsize=(1.75 * shown + 0.6, 5.2 * len(pairs) + 0.5), layout="constrained")
    for part, (name, runs) in zip(np.atleast_1d(fig.subfigures(len(pairs), 1)), pairs.items(), strict=True):
        lines = part.subplots(2, shown, squeeze=False)
        for ax in lines.flat:
            ax.set_axis_off()
        seeds = [[row["seed"] for _, row in zip(pictures, rows)] for pictures, rows in runs]
        changed = [k for k, (one, other) in enumerate(zip(*seeds, strict=True)) if one != other][:shown]
        for column, k in enumerate(changed):
            for ax, (pictures, rows) in zip(lines[:, column], runs, strict=True):
                ax.set_axis_on()
                show(ax, overlay.enlarge(pictures[k]))
                shares = [rows[k][key] for key in ("attribute_acc", "relation_acc")]
                said = ["-" if np.isnan(share) else f"{share:.2f}" for share in shares]
                ax.set_xlabel(f"attributes {said[0]}\nrelations {said[1]}", fontsize=7)
            lines[0, column].set_title(fill(prompts[k], 28), fontsize=6.5)
        for ax, what in zip(lines[:, 0], ("first", "kept"), strict=True):
            ax.set_ylabel(f"{name}: {what}", fontsize=9)
    fig.suptitle(f"the first pictures that the guides refused; {title}", fontsize=10)
    return fig


def budget_plot(
    metrics: Metrics, lines: Mapping[str, Sequence[str]], names: Sequence[str], title: str, costs=("nfe", "seconds")
) -> Figure:
    """What more tries buy: metrics (columns) over cost (rows) with 95 % intervals; each of `lines` joins its cases,
    the first of them drawn once, the others named by what follows the underscore. n is said where it is smaller."""
    fig = Figure(figsize=(3.9 * len(names) + 0.6, 3.1 * len(costs) + 0.5), layout="constrained")
    grid = fig.subplots(len(costs), len(names), squeeze=False, sharex="row", sharey="col")
    looks = ((BASE, (-6, 5), "right"), (METHOD, (6, -10), "left"))
    for axes, cost in zip(grid, costs, strict=True):
        for ax, name in zip(axes, names, strict=True):
            most = max(metrics[case][name]["n"] for cases in lines.values() for case in cases)
            for (color, shift, side), (label, cases) in zip(looks, lines.items(), strict=True):
                entries = [metrics[case][name] for case in cases]
                x, y = [metrics[case][cost]["mean"] for case in cases], [entry["mean"] for entry in entries]
                ends = np.abs([[entry[end] - entry["mean"] for entry in entries] for end in ("lo", "hi")])
                ax.errorbar(x, y, yerr=ends, fmt="o-", color=color, lw=1, ms=5, label=label)
                for case, entry, *place in zip(cases, entries, x, y, strict=True):
                    said = case.partition("_")[2] or "once"
                    said += f" (n = {entry['n']})" * (entry["n"] < most)
                    ax.annotate(said, place, shift, textcoords="offset points", fontsize=8, ha=side, color=color)
            ax.margins(x=0.2)
            ax.set_xlabel(f"{cost} per picture")
            ax.set_ylabel(f"{name} {arrow(name)}")
    grid[0, 0].legend(fontsize=8, loc="lower right")
    fig.suptitle(title, fontsize=10)
    return fig
