"""Pictures of boxes that were asked of a map: the map and its picture, with the boxes over both."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from helpers.conditions import Layout
from helpers.figures import overlay
from helpers.figures.pictures import below, caption, picture_grid, show


def maps_grid(
    strips: Mapping[str, np.ndarray],
    rows: Mapping[str, Sequence[Mapping]],
    layouts: Sequence[Layout],
    message: str,
    note: str,
) -> Figure:
    """A line per prompt. strips: case in words -> (k, H, 2 W, 3) uint8 of map and picture, a black map where there is
    none; rows: the judge's numbers; layouts: what was asked for."""
    columns, drawn = [], {}
    for case, found in strips.items():
        drawn[case] = found[:, :, : found.shape[2] // 2].any()
        columns += [case, "picture"] if drawn[case] else [case]
    fig, grid = picture_grid(
        len(layouts), columns, message, f"{note}. Below: box IoU of the picture. Dashes: the boxes"
    )
    for k, layout in enumerate(layouts):
        axes = iter(grid[k])
        caption(grid[k], layout.prompt, layout)
        for case, found in strips.items():
            for part in np.split(found[k], 2, 1)[0 if drawn[case] else 1 :]:
                ax = next(axes)
                show(ax, overlay.draw_wanted(overlay.enlarge(part), layout))
            below(ax, f"{rows[case][k]['box_iou']:.2f}")
    return fig
