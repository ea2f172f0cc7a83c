"""Figures of a layout's attention, and what they measure, from Traces with `AttentionMaps` (helpers.sampling).

A map holds, for one layer and region, the share of every pixel's attention that goes to the last word of the region's
phrase. Its colours go with the square root, for what is injected is several times what is not. Panels that are
compared share their limits.
"""

from collections.abc import Mapping
from textwrap import fill

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.conditions import Layout
from helpers.figures import overlay
from helpers.figures.style import MEDIUM, METHOD, OTHER, WIDTH, titled
from helpers.figures.traces import windows_of
from helpers.sampling.trace import Record, Trace

MAPS = "attention."  # how the names of the maps begin


def layers_of(record: Record) -> dict[str, list[str]]:
    """What of a record's attention can be shown: name -> maps of which it is the mean.

    First all layers of one resolution, the second coarsest before the others because iLGD's defaults read that, then
    every layer by itself. ValueError when nothing was recorded.
    """
    grids = {name: maps.shape[-2:] for name, maps in record.maps.items() if name.startswith(MAPS)}
    if not grids:
        raise ValueError(
            "the trace has no attention: put helpers.sampling.attention_maps.AttentionMaps into the guidance list"
        )
    sizes = sorted(set(grids.values()))
    first = sizes[:2][-1]
    means = {
        f"mean of all {h} x {w} layers": [name for name, grid in grids.items() if grid == (h, w)]
        for h, w in sorted(sizes, key=lambda size: size != first)
    }
    return means | {f"{name.removeprefix(MAPS)}, {h} x {w}": [name] for name, (h, w) in grids.items()}


def attention_of(record: Record, layer: str) -> np.ndarray:
    """The attention of every region's token, float32 (S, regions, h, w); layer: a name of `layers_of`."""
    return np.mean([record.maps[name].astype(np.float32) for name in layers_of(record)[layer]], 0)


def cells(layout: Layout, height: int, width: int) -> np.ndarray:
    """The share of every cell that a region covers, (regions, height, width): what iLGD injects there."""
    wanted = torch.from_numpy(overlay.wanted(layout)).float()
    return F.adaptive_avg_pool2d(wanted, (height, width)).numpy()


def inside(maps: np.ndarray, layout: Layout) -> np.ndarray:
    """The share of the attention (S, regions, h, w) that lies inside the wanted places: (S, regions)."""
    total = maps.sum((-2, -1))
    return (maps * cells(layout, *maps.shape[-2:])).sum((-2, -1)) / np.where(total > 0, total, 1)


def scale(top: float) -> PowerNorm:
    """From attention in [0, top] to colours."""
    return PowerNorm(0.5, 0, top)


def attention_grid(
    traces: Mapping[str, Trace], title: str, image: int = 0, layer: str | None = None, shown: int = 6
) -> Figure:
    """Where every region's token is seen, at some steps. Rows: per phrase one for each case, in the order of `traces`
    (baseline first); right: the final picture. Numbers: the share of the attention inside the wanted place.

    The rows of a phrase share their colours, up to the largest value of any step. image: which record of the Traces.
    layer: a name of `layers_of`, its first if not given. shown: how many steps. title: model, and what else the small
    print says; layer and seed are added.
    """
    records = {case: trace.records[image] for case, trace in traces.items()}
    first, timesteps = next(iter(records.values())), next(iter(traces.values())).timesteps
    layer = layer or next(iter(layers_of(first)))
    maps = {case: attention_of(record, layer) for case, record in records.items()}
    shares = {case: inside(maps[case], records[case].layout) for case in traces}
    steps = np.linspace(0, len(timesteps) - 1, min(shown, len(timesteps))).round().astype(int)
    regions = first.layout.regions

    fig = Figure(figsize=(WIDTH, (1.1 * len(traces) + 0.35) * len(regions) + 0.9), layout="constrained")
    for n, part in enumerate(np.atleast_1d(fig.subfigures(len(regions), 1))):
        grid = part.subplots(len(traces), len(steps) + 1, squeeze=False)
        top = max(found[:, n].max() for found in maps.values())
        for row, (case, record) in zip(grid, records.items(), strict=True):
            for ax, step in zip(row, steps, strict=False):
                drawn = _panel(ax, maps[case][step, n], record.layout, n)
                drawn.set(cmap="viridis", norm=scale(top))
                ax.set_xlabel(f"{100 * shares[case][step, n]:.0f} % inside", labelpad=1)
            _panel(row[-1], overlay.enlarge(record.final), record.layout, n)
            row[0].set_ylabel(fill(case.replace("_", " "), 14))
        for ax, step in zip(grid[0], steps, strict=False):
            ax.set_title(f"step {step + 1}")
        grid[0, -1].set_title("final")
        bar = part.colorbar(drawn, ax=grid, shrink=0.9, aspect=25, ticks=[0, float(top) / 4, float(top)])
        bar.ax.set_yticklabels([f"{100 * value:.{int(0 < value < 0.1)}f} %" for value in (0, top / 4, top)])
        chip = {"facecolor": overlay.COLORS[n % len(overlay.COLORS)], "edgecolor": "none", "pad": 3}
        part.supylabel(regions[n].phrase, fontsize=MEDIUM, bbox=chip)
    note = (
        f"{title}, seed {first.seed}; {layer}. Colours: share of a pixel's attention that goes to the phrase's last "
        "word. Below: how much of the word's attention lies inside its box (outlined)."
    )
    return titled(fig, f"Where the words of “{first.prompt}” are attended", note)


def _panel(ax: Axes, picture: np.ndarray, layout: Layout, *outlined: int):
    """A picture over the unit square, with the wanted places of some regions outlined; the image that was drawn."""
    ax.set(xticks=[], yticks=[], xlim=(-0.015, 1.015), ylim=(1.015, -0.015))
    ax.grid(False)
    ax.spines[:].set_visible(False)
    wanted = np.pad(overlay.wanted(layout), ((0, 0), (1, 1), (1, 1)))  # closes outlines at the border
    for n in outlined:
        color, rim = overlay.COLORS[n % len(overlay.COLORS)], 0.5 / overlay.SIDE
        ax.contour(wanted[n], [0.5], colors=color, linewidths=1.5, extent=(-rim, 1 + rim, -rim, 1 + rim))
    return ax.imshow(picture, extent=(0, 1, 1, 0), aspect="equal")


def overlap_plot(trace: Trace, title: str, image: int = 0) -> Figure:
    """When iLGD injects and when its loss guides, and where: nu_t above eta sigma_t over the steps, windows shaded;
    the shares of cells in which a layout's tokens are raised, at every resolution of the denoiser.

    image: which record of the Trace. title: model, and what else the small print says; the prompt is added. ValueError
    for a Trace without iLGD, or with a strength rule in which eta is no factor of the gradient.
    """
    ilgd, record = trace.settings.get("ilgd"), trace.records[image]
    if ilgd is None:
        raise ValueError(f"the trace has no iLGD but {', '.join(trace.settings)}: give one of a case that has")
    sigma = np.array(trace.sigmas)
    ratio = sigma / np.sqrt(1 - sigma**2)
    sigmas, rule = {"raw": sigma, "exploding": ratio}, ilgd["strength"]
    if rule["rule"] not in sigmas:
        raise ValueError(f"the strength rule {rule['rule']!r} has no eta sigma_t: give a trace of raw or exploding")
    nu, eta = ilgd["injection"], ilgd["weight"] * rule["scale"]
    curves = {
        "injection": (nu * np.log1p(ratio), rf"injection: strength $\nu_t$ ($\nu$ = {nu:g})", OTHER),
        "ilgd": (eta * sigmas[rule["rule"]], rf"loss: size of a step $\eta\,\sigma_t$ ($\eta$ = {eta:g})", METHOD),
    }
    grids = sorted({maps[0].shape for maps in (attention_of(record, layer)[0] for layer in layers_of(record))})[::-1]

    fig = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(1.5, len(grids)))
    at, windows = np.arange(1, len(sigma) + 1), windows_of(trace)
    for ax, (name, (values, label, color)) in zip(left.subplots(2, 1, sharex=True), curves.items(), strict=True):
        first, last = windows.get(name, (0, 0))
        acts = (first + 1 < at) & (at < last + 1)
        ax.plot(at, values, ":", color=color, lw=1)
        ax.plot(at[acts], values[acts], "o-", color=color, ms=4)
        ax.axvspan(first + 1, last + 1, color=color, alpha=0.12, lw=0)
        ax.set(title=label, xlim=(0.5, len(sigma) + 0.5), ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.set_xlabel("step")
    for ax, (height, width) in zip(np.atleast_1d(right.subplots(1, len(grids))), grids, strict=True):
        picture = np.full((height, width, 3), overlay.PAPER, float)
        for n, share in enumerate(cells(record.layout, height, width)):
            picture += share[..., None] * (overlay.rgb(n) - picture)
        _panel(ax, picture.round().astype(np.uint8), record.layout, *range(len(record.layout.regions)))
        ax.set_title(f"{height} × {width} cells")
    note = (
        f"{title}; “{record.prompt}”. Shaded: the steps in which it acts; dotted: what it would be. "
        "Right: the cells in which a phrase's word is raised, in the layers of each resolution; outlined: its box."
    )
    return titled(fig, "When and where iLGD acts: injection and loss, the cells of each resolution", note)
