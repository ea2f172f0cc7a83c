"""What figures of pictures are made of: a picture without axes, a grid of them under titles, a drag's arrows."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.conditions import Drag
from helpers.figures.style import OTHER


def show(ax: Axes, picture: np.ndarray) -> None:
    """A picture (H, W, 3), or a map (h, w), without axes."""
    ax.imshow(picture)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def grid_of(
    rows: int, titles: Sequence[str], cell: tuple[float, float], title: str, **settings
) -> tuple[Figure, np.ndarray]:
    """A figure of rows x len(titles) panels of `cell` inches, each column under its title; and the panels."""
    fig = Figure(figsize=(cell[0] * len(titles) + 0.4, cell[1] * rows + 0.5), layout="constrained")
    grid = fig.subplots(rows, len(titles), squeeze=False, **settings)
    for ax, name in zip(grid[0], titles, strict=True):
        ax.set_title(fill(name.replace("_", " "), 16), fontsize=10)
    fig.suptitle(title, fontsize=10)
    return fig, grid


def draw_arrows(ax: Axes, drag: Drag, shape: Sequence[int], color: str = OTHER) -> None:
    """A drag's handles and targets over a picture of this shape."""
    for move in drag.moves:
        ends = [np.array(point) * (shape[1], shape[0]) - 0.5 for point in (move.handle, move.target)]
        ax.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "color": color, "lw": 2})
        ax.plot(*ends[0], "o", color=color, ms=4)
