"""Figures of best of N (`helpers.sampling.best_of`): what drawing again changed, and what it cost."""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

import numpy as np
from matplotlib.figure import Figure

from helpers.figures import overlay
from helpers.figures.grids import said_of_prompt
from helpers.figures.labels import place_labels
from helpers.figures.pictures import caption, picture_grid, show
from helpers.figures.style import BASE, METHOD, SMALL, WIDTH, Metrics, titled
from helpers.figures.words import INTERVALS, axis

Tries = tuple[Sequence[np.ndarray], Sequence[Mapping]]  # pictures uint8 (H, W, 3), and the judge's row for each


def changed(runs: tuple[Tries, Tries]) -> list[int]:
    """Which pictures were drawn again: a row's "seed" says which try a picture is."""
    seeds = [[row["seed"] for row in rows] for _, rows in runs]
    return [k for k, (one, other) in enumerate(zip(*seeds, strict=False)) if one != other]


def right(row: Mapping) -> float:
    """The share of what a prompt says that the judge found, attributes and relations alike."""
    return float(np.nanmean([row["attribute_acc"], row["relation_acc"]]))


def best_of_grid(pairs: Mapping[str, tuple[Tries, Tries]], prompts: Sequence[str], note: str, shown: int = 3) -> Figure:
    """The first pictures of a benchmark that were drawn again, the first try left of the kept one; a column of blocks
    for each of `pairs`: name -> (without, with more tries). prompts: in the order of the pictures.

    The message counts over all rows how many of those drawn again became better and worse.
    """
    titles = [f"{name}:\n{which}" for name in pairs for which in ("first try", "kept")]
    again = {name: changed(runs) for name, runs in pairs.items()}
    counted = []
    for name, (before, after) in pairs.items():
        gains = [right(after[1][k]) - right(before[1][k]) for k in again[name]]
        better, worse = (sum(sign * gain > 0 for gain in gains) for sign in (1, -1))
        counted.append(f"{name} {len(gains)} ({better} better, {worse} worse)")
    message = "First tries that the guides refused, drawn again: " + ", ".join(counted)
    drawn = {name: [k for k in ks if k < len(pairs[name][0][0])][:shown] for name, ks in again.items()}
    lines = max(map(len, drawn.values()), default=0)
    places = list(chain(*zip_longest(*drawn.values())))
    note += ". Better: a larger share of attributes and relations is right. ✗: not all are"
    said = [prompts[k] for k in places if k is not None] or [""]
    count = max(lines, 1) * len(pairs)
    fig, grid = picture_grid(count, titles, message, note, said, 2, len(pairs), largest=1.7)
    for axes, k, (before, after) in zip(grid, places, [*pairs.values()] * lines, strict=False):
        if k is None:
            for ax in axes:
                ax.set_axis_off()
            continue
        caption(axes, prompts[k])
        for ax, (pictures, rows) in zip(axes, (before, after), strict=True):
            show(ax, overlay.enlarge(pictures[k]))
            said_of_prompt(ax, rows[k], rows is after[1] and right(after[1][k]) < right(before[1][k]))
    return fig


def budget_plot(
    metrics: Metrics, lines: Mapping[str, Mapping[str, str]], names: Sequence[str], message: str, note: str
) -> Figure:
    """What more tries buy: metrics over evaluations of the denoiser with 95 % intervals; each of `lines` joins its
    cases, case -> name, the first of them drawn once. n is said where it is smaller."""
    fig, drawn = Figure(figsize=(WIDTH, 3.5), layout="constrained"), []
    for ax, name in zip(np.atleast_1d(fig.subplots(1, len(names))), names, strict=True):
        most = max(metrics[case][name]["n"] for cases in lines.values() for case in cases)
        points, said, colors = [], [], []
        for color, (label, cases) in zip((BASE, METHOD), lines.items(), strict=True):
            entries = [metrics[case][name] for case in cases]
            x, y = [metrics[case]["nfe"]["mean"] for case in cases], [entry["mean"] for entry in entries]
            ends = np.abs([[entry[end] - entry["mean"] for entry in entries] for end in ("lo", "hi")])
            ax.errorbar(x, y, yerr=ends, fmt="o-", color=color, lw=1, ms=5, label=label)
            points += zip(x, y, strict=True)
            said += [
                f"{of}\n(n = {entry['n']})" if entry["n"] < most else of
                for of, entry in zip(cases.values(), entries, strict=True)
            ]
            colors += [color] * len(cases)
        ax.margins(x=0.2, y=0.2)
        ax.set(xlabel=axis("nfe"), ylabel=axis(name, "y"), title=f"n = {most}")
        drawn.append((ax, points, said, colors))
    drawn[0][0].legend(fontsize=SMALL, loc="lower right")
    titled(fig, message, f"{note}; {INTERVALS}.")
    for place in drawn:
        place_labels(*place)
    return fig
