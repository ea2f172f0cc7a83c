"""Pictures of layouts of free boxes: what could lie in a box, and what does."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from helpers.figures import overlay
from helpers.figures.grids import Scores, Traces, one_of_each
from helpers.figures.pictures import below, caption, picture_grid, show

INSIDE = 0.5  # of an object, from which on a picture keeps to its boxes


def free_grid(
    traces: Traces, scores: Scores, layouts: Sequence, names: Mapping[str, str], message: str, note: str
) -> Figure:
    """Rows: of every number of objects the first prompt; columns: silhouettes that fill the boxes best, then the cases.

    traces, scores: by the case's id, with a row per image of `helpers.metrics.free.score`. layouts: with boxes and
    silhouettes, in the order of the run. names: of the cases, in words.
    """
    first = next(iter(traces.values())).records
    chosen = one_of_each(first)
    columns = ["asked for,\nbest filled", *(names[case] for case in traces)]
    note = f"{note}. Under a picture: the share of the objects that lies inside, and box IoU. "
    fig, grid = picture_grid(len(chosen), columns, message, f"{note}✗: less than {100 * INSIDE:.0f} % inside.")
    for axes, k in zip(grid, chosen, strict=True):
        index = first[k].index
        boxes, silhouettes = layouts[index].boxes_only(), layouts[index].masks_only()
        show(axes[0], overlay.draw_wanted(overlay.target(silhouettes), boxes))
        below(axes[0], f"box IoU {next(iter(scores.values()))[index]['ceiling']:.2f}")
        caption(axes, first[k].prompt, boxes)
        for ax, (case, trace) in zip(axes[1:], traces.items(), strict=True):
            show(ax, overlay.draw_wanted(overlay.enlarge(trace.records[k].final), boxes))
            found = scores[case][index]
            below(ax, f"{100 * found['inside']:.0f} % in, IoU {found['box_iou']:.2f}", found["inside"] < INSIDE)
    return fig
