"""Names beside points, without one over another."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from helpers.figures.style import SMALL

RADII = (7, 12, 18, 26, 36, 48, 62)  # points between a point and its name
ANGLES = np.deg2rad([0, 30, -30, 60, -60, 90, -90, 120, -120, 150, -150, 180])
MISTAKEN = 40  # what a place costs that is nearer to another point; other costs: an area in pixels


def place_labels(
    ax: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], colors: Sequence[str] | None = None
) -> None:
    """Writes names beside points (x, y) that exist; a thin line leads to those that found room only farther away.

    Call it when all else has been drawn: the figure's layout must not change afterwards.
    """
    fig = ax.figure.get_figure(root=True)
    fig.draw_without_rendering()
    scale, frame, at = fig.dpi / 72, ax.get_window_extent(), ax.transData.transform(points)
    taken = [
        Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in at[np.isfinite(at).all(1)]
    ]
    taken += [ax.get_legend().get_window_extent()] if ax.get_legend() else []
    lines = _lines(ax)
    for k, (place, name) in enumerate(zip(points, names, strict=True)):
        if not np.isfinite(place).all():
            continue
        color = colors[k] if colors else "0.2"
        label = ax.annotate(
            name, place, (0, 0), textcoords="offset points", fontsize=SMALL, color=color, ha="center", va="center",
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6, "shrinkA": 0, "shrinkB": 2},
            path_effects=[withStroke(linewidth=2, foreground="white")], zorder=5,
        )  # fmt: skip
        label.set_in_layout(False)
        size, others = label.get_window_extent().size / scale, np.delete(at, k, 0)
        costs = []
        for radius, angle in product(RADII, ANGLES):
            way = np.array([np.cos(angle), np.sin(angle)])
            shift = way * (radius + size / 2 * np.abs(way))
            box = Bbox.from_bounds(*(at[k] + (shift - size / 2 - 1) * scale), *((size + 2) * scale))
            nearer = any(_gap(box, other) < _gap(box, at[k]) for other in others)
            cost = _covered(box, taken, frame) + _inside(box, lines) / 2 + radius / 2 + MISTAKEN * nearer
            costs.append((cost, len(costs), shift, box))
        _, _, shift, box = min(costs)
        taken.append(box)
        label.set_position(shift)
        label.arrow_patch.set_visible(_gap(box, at[k]) > RADII[1] * scale)


def _lines(ax: Axes) -> np.ndarray:
    """Points in pixels, close to each other, of the lines that are drawn between two points or more."""
    paths = [line.get_xydata() for line in ax.lines if line.get_linestyle() != "None"]
    paths += [segment for bars in ax.collections if isinstance(bars, LineCollection) for segment in bars.get_segments()]
    ends = [ax.transData.transform(pair) for path in paths for pair in zip(path[:-1], path[1:], strict=True)]
    between = np.linspace(0, 1, 30)[:, None]
    return np.concatenate([np.zeros((0, 2)), *(one + between * (other - one) for one, other in ends)])


def _gap(box: Bbox, point: np.ndarray) -> float:
    """Pixels between a box and a point."""
    return float(np.hypot(*np.maximum(np.maximum(box.min - point, point - box.max), 0)))


def _inside(box: Bbox, points: np.ndarray) -> int:
    """How many points lie in the box."""
    return int(((box.min < points) & (points < box.max)).all(1).sum())


def _covered(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """The area of the box, in pixels, that is taken or leaves the frame."""
    parts = [Bbox.intersection(box, other) for other in (*taken, frame)]
    areas = [part.width * part.height if part else 0 for part in parts]
    return sum(areas[:-1]) + box.width * box.height - areas[-1]
