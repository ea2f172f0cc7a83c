"""Grids of final pictures, cases side by side: layouts, prompts, drags, combinations.

The baseline stands left; nothing is picked by hand. traces: case in words -> Trace of the showcase. scores: case -> the
judge's numbers, a row for each image of the run. Message and note stand above and below.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from helpers.conditions import decode_image
from helpers.figures import overlay
from helpers.figures.pictures import below, caption, draw_arrows, picture_grid, show
from helpers.sampling.trace import Record, Trace

PLACED = 0.5  # box IoU from which on a picture keeps to its layout
ARRIVED = 4  # pixels within which an object or a handle counts as moved

Traces = Mapping[str, Trace]
Scores = Mapping[str, Sequence[Mapping]]


class Combined(Protocol):
    """A scene to be drawn from a prompt, scene.layout and drag.drag together."""

    prompt: str
    scene: Any
    drag: Any


def one_of_each(records: Sequence[Record]) -> list[int]:
    """The first record of every number of regions."""
    counts = [len(record.layout.regions) for record in records]
    return sorted(counts.index(count) for count in set(counts))


def case_grid(traces: Traces, scores: Scores, message: str, note: str) -> Figure:
    """Rows: of every number of objects the first prompt; columns: the wanted layout, then the cases with their mean.

    Dashes are what the case was asked for (the baseline was not told); a phrase has the colour of its place.
    """
    first, columns = next(iter(traces.values())).records, ["asked for"]
    for case in traces:
        ious = [row["box_iou"] for row in scores[case]]
        columns.append(f"{case}\nmean IoU {np.mean(ious):.2f} (n = {len(ious)})")
    chosen = one_of_each(first)
    fig, grid = picture_grid(len(chosen), columns, message, f"{note}. ✗: box IoU below {PLACED}.")
    for axes, k in zip(grid, chosen, strict=True):
        records = {case: trace.records[k] for case, trace in traces.items()}
        asked = {record.layout: None for record in records.values()}  # boxes, silhouettes or both
        layout = max(asked, key=lambda layout: sum(r.mask is not None for r in layout.regions))
        wanted = overlay.target(layout)
        for one in asked:
            wanted = overlay.draw_wanted(wanted, one)
        show(axes[0], wanted)
        caption(axes, first[k].prompt, layout)
        for ax, (case, record) in zip(axes[1:], records.items(), strict=True):
            show(ax, overlay.draw_wanted(overlay.enlarge(record.final), record.layout))
            iou = scores[case][record.index]["box_iou"]
            below(ax, f"box IoU {iou:.2f}", iou < PLACED)
    return fig


def prompt_grid(traces: Traces, scores: Scores, message: str, note: str) -> Figure:
    """Blocks: the showcase prompts with the cases in the order of `traces`; "-" is a prompt without relations."""
    first = next(iter(traces.values())).records
    blocks = 2 if len(traces) < 4 else 1
    note += ". ✗: less than all attributes or relations."
    fig, grid = picture_grid(len(first), [*traces] * blocks, message, note, [of.prompt for of in first], 2, blocks)
    for k, axes in enumerate(grid):
        caption(axes, first[k].prompt)
        for ax, (case, trace) in zip(axes, traces.items(), strict=True):
            show(ax, overlay.enlarge(trace.records[k].final))
            said_of_prompt(ax, scores[case][trace.records[k].index])
    return fig


def said_of_prompt(ax, row: Mapping, worse: bool = False) -> None:
    """Under a picture: the shares of its attributes and relations that are right; worse: than before."""
    shares = [row[key] for key in ("attribute_acc", "relation_acc")]
    said = ["-" if np.isnan(share) else f"{share:.2f}" for share in shares]
    below(ax, f"attributes {said[0]}\nrelations {said[1]}" + ", worse" * worse, bool(np.nanmin(shares) < 1))


def drag_grid(traces: Traces, edits: Sequence[np.ndarray], scores: Scores, message: str, note: str) -> Figure:
    """Rows: the showcase drags; columns: source with the drag, the rendered edit, the cases (baseline first).

    edits: what the pictures should become, uint8 (H, W, 3), in the order of the run.
    """
    first = next(iter(traces.values())).records
    columns = ["source, drag", "true edit", *traces]
    note += f". ✗: the handle ends more than {ARRIVED} px off."
    fig, grid = picture_grid(len(first), columns, message, note, below=2)
    for record, (k, axes) in zip(first, enumerate(grid), strict=True):
        source = overlay.enlarge(decode_image(record.drag.source))
        show(axes[0], source)
        draw_arrows(axes[0], record.drag, source.shape)
        caption(axes, record.prompt)
        show(axes[1], overlay.enlarge(edits[record.index]))
        for ax, (case, trace) in zip(axes[2:], traces.items(), strict=True):
            show(ax, overlay.enlarge(trace.records[k].final))
            found = scores[case][record.index]
            said = f"likeness {found['edit_fidelity']:.2f}\n{found['drag_md']:.1f} px off"
            below(ax, said, found["drag_md"] > ARRIVED)
    return fig


def combination_grid(traces: Traces, scenes: Sequence[Combined], scores: Scores, message: str, note: str) -> Figure:
    """Rows: the showcase scenes; columns: source with the drag, then the cases; dashes are the wanted boxes.

    scenes: the benchmark cases, in the order of the run; scores: case -> the judge's numbers, a row for each of them.
    """
    first = next(iter(traces.values())).records
    note += f". ✗: box IoU below {PLACED}, or the object more than {ARRIVED} px off."
    fig, grid = picture_grid(len(first), ["source,\ndrag, boxes", *traces], message, note, below=2)
    for record, (k, axes) in zip(first, enumerate(grid), strict=True):
        asked = scenes[record.index]
        source, wanted = overlay.enlarge(decode_image(asked.drag.drag.source)), asked.scene.layout.boxes_only()
        show(axes[0], overlay.draw_wanted(source, wanted))
        draw_arrows(axes[0], asked.drag.drag, source.shape)
        caption(axes, asked.prompt, wanted)
        for ax, (case, trace) in zip(axes[1:], traces.items(), strict=True):
            show(ax, overlay.draw_wanted(overlay.enlarge(trace.records[k].final), wanted))
            found = scores[case][record.index]
            iou, off = found["box_iou"], found["center_dist"]
            below(ax, f"IoU {iou:.2f}\n{off:.0f} px off", iou < PLACED or off > ARRIVED)
    return fig
