"""Grids of final pictures, cases side by side: layouts, prompts, drags, combinations.

The baseline stands left; nothing is picked by hand. traces: case -> Trace of the showcase. scores: case -> the judge's
numbers, a row for each image of the run.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from helpers.conditions import decode_image
from helpers.figures import overlay
from helpers.figures.pictures import draw_arrows, grid_of, show
from helpers.sampling.trace import Trace


class Combined(Protocol):
    """A scene to be drawn from a prompt, scene.layout and drag.drag together."""

    prompt: str
    scene: Any
    drag: Any


def case_grid(traces: Mapping[str, Trace], scores: Mapping[str, Sequence[Mapping]], title: str) -> Figure:
    """Rows: the showcase prompts; columns: the wanted layout, then the cases in the order of `traces` (baseline first).

    scores: case -> the judge's numbers, a row for each image of the run. title: model, steps. Dashes are what the case
    was asked for (the baseline was not told).
    """
    first = next(iter(traces.values())).records
    fig, grid = grid_of(len(first), ("wanted", *traces), (1.75, 2.12), title)
    for row, axes in enumerate(grid):
        records = {case: trace.records[row] for case, trace in traces.items()}
        asked = {record.layout: None for record in records.values()}  # boxes, silhouettes or both
        wanted = overlay.target(max(asked, key=lambda layout: sum(r.mask is not None for r in layout.regions)))
        for layout in asked:
            wanted = overlay.draw_wanted(wanted, layout)
        show(axes[0], wanted)
        axes[0].set_xlabel(fill(f"{first[row].prompt}, seed {first[row].seed}", 28), fontsize=8)
        for ax, (case, record) in zip(axes[1:], records.items(), strict=True):
            show(ax, overlay.draw_wanted(overlay.enlarge(record.final), record.layout))
            found = scores[case][record.index]
            ax.set_xlabel(f"IoU: box {found['box_iou']:.2f}, mask {found['mask_iou']:.2f}", fontsize=8)
    return fig


def prompt_grid(traces: Mapping[str, Trace], scores: Mapping[str, Sequence[Mapping]], title: str) -> Figure:
    """Rows: the showcase prompts; columns: the cases in the order of `traces` (baseline first).

    scores: case -> the judge's numbers, a row for each image of the run; "-" is a prompt without relations.
    """
    first = next(iter(traces.values())).records
    widths = [1.3, *[1] * len(traces)]
    fig, grid = grid_of(len(first), ("", *traces), (1.9, 2.05), title, width_ratios=widths)
    for row, axes in enumerate(grid):
        record = first[row]
        axes[0].text(0, 0.5, fill(f"{record.prompt} (seed {record.seed})", 26), fontsize=8.5, va="center")
        axes[0].set_axis_off()
        for ax, (case, trace) in zip(axes[1:], traces.items(), strict=True):
            show(ax, overlay.enlarge(trace.records[row].final))
            found = scores[case][trace.records[row].index]
            shares = ["-" if np.isnan(found[key]) else f"{found[key]:.2f}" for key in ("attribute_acc", "relation_acc")]
            ax.set_xlabel(f"attributes {shares[0]}, relations {shares[1]}", fontsize=7.5)
    return fig


def drag_grid(
    traces: Mapping[str, Trace], edits: Sequence[np.ndarray], scores: Mapping[str, Sequence[Mapping]], title: str
) -> Figure:
    """Rows: the showcase drags; columns: source with the drag, the rendered edit, the cases (baseline first).

    edits: what the pictures should become, uint8 (H, W, 3), in the order of the run.
    """
    first = next(iter(traces.values())).records
    fig, grid = grid_of(len(first), ("source, drag", "wanted", *traces), (1.75, 2.12), title)
    for row, axes in enumerate(grid):
        record = first[row]
        source = overlay.enlarge(decode_image(record.drag.source))
        show(axes[0], source)
        draw_arrows(axes[0], record.drag, source.shape)
        axes[0].set_xlabel(fill(f"{record.prompt}, seed {record.seed}", 28), fontsize=8)
        show(axes[1], overlay.enlarge(edits[record.index]))
        for ax, (case, trace) in zip(axes[2:], traces.items(), strict=True):
            show(ax, overlay.enlarge(trace.records[row].final))
            found = scores[case][record.index]
            ax.set_xlabel(f"{found['drag_md']:.1f} px off, fidelity {found['edit_fidelity']:.2f}", fontsize=8)
    return fig


def combination_grid(
    traces: Mapping[str, Trace], scenes: Sequence[Combined], scores: Mapping[str, Sequence[Mapping]], title: str
) -> Figure:
    """Rows: the showcase scenes; columns: source with the drag, then the cases; dashes are the wanted boxes.

    scenes: the benchmark cases, in the order of the run; scores: case -> the judge's numbers, a row for each of them.
    """
    first = next(iter(traces.values())).records
    fig, grid = grid_of(len(first), ("source, drag, wanted", *traces), (1.6, 2.25), title)
    for row, axes in enumerate(grid):
        asked = scenes[first[row].index]
        source, wanted = overlay.enlarge(decode_image(asked.drag.drag.source)), asked.scene.layout.boxes_only()
        show(axes[0], overlay.draw_wanted(source, wanted))
        draw_arrows(axes[0], asked.drag.drag, source.shape)
        axes[0].set_xlabel(fill(asked.prompt, 34), fontsize=5.5)
        for ax, (case, trace) in zip(axes[1:], traces.items(), strict=True):
            show(ax, overlay.draw_wanted(overlay.enlarge(trace.records[row].final), wanted))
            found = scores[case][first[row].index]
            ax.set_xlabel(f"IoU {found['box_iou']:.2f}, {found['center_dist']:.0f} px off", fontsize=7)
    return fig
