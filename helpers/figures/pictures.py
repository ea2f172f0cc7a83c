"""What figures of pictures are made of: pictures without axes, a grid of them, captions on colours, arrows."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

from helpers.conditions import Drag, Layout, locate
from helpers.figures import overlay
from helpers.figures.style import LARGE, MEDIUM, OTHER, SMALL, WIDTH, wrapped

LINE = 0.155  # inches of a line of small text
EDGE, GAP, APART = 0.08, 0.07, 0.3  # inches around a figure, between pictures, between blocks


def show(ax: Axes, picture: np.ndarray) -> None:
    """A picture (H, W, 3), or a map (h, w), without axes."""
    ax.imshow(picture)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def picture_grid(
    rows: int,
    titles: Sequence[str],
    message: str,
    note: str,
    above: int | Sequence[str] = 1,
    below: int = 1,
    blocks: int = 1,
    largest: float = 1.8,
) -> tuple[Figure, np.ndarray]:
    """A figure of lines of square panels under the columns' titles; and the panels, (rows, columns).

    titles: of the columns of all blocks. above: how many lines of text a row has room for over its panels, or the
    captions that find room there; below: lines under them. blocks: how many rows stand side by side. largest: inches.
    """
    columns, lines = len(titles) // blocks, -(-rows // blocks)
    between = GAP * (columns * blocks - 1) + (APART - GAP) * (blocks - 1)
    side = min((WIDTH - 2 * EDGE - between) / (columns * blocks), largest)
    width = max(side * columns * blocks + between + 2 * EDGE, 0.7 * WIDTH)
    indent = (width - side * columns * blocks - between) / 2
    fig, titles = Figure(figsize=(width, 1)), [broken(title, side, MEDIUM) for title in titles]
    if not isinstance(above, int):
        above = max(broken(text, columns * (side + GAP)).count("\n") + 1 for text in above)
    said, small = wrapped(message, fig, LARGE), wrapped(note, fig, SMALL)
    head = 0.18 * (said.count("\n") + 1) + 0.1
    titled = LINE * (max(title.count("\n") for title in titles) + 1) + 0.04
    row = LINE * (above + below) + side + 0.1
    height = head + titled + lines * row + LINE * (small.count("\n") + 1) + 0.12
    fig.set_figheight(height)
    fig.text(0.01, 1 - 0.05 / height, said, fontsize=LARGE, fontweight="bold", va="top")
    fig.text(0.01, 0.05 / height, small, fontsize=SMALL, color="0.25", va="bottom")
    grid = np.empty((rows, columns), object)
    for k in range(rows):
        for column in range(columns):
            left = indent + (k % blocks) * (columns * (side + GAP) + APART - GAP) + column * (side + GAP)
            top = height - head - titled - (k // blocks) * row - LINE * above
            grid[k, column] = fig.add_axes((left / width, (top - side) / height, side / width, side / height))
            if k < blocks:
                at = (left + side / 2) / width, 1 - (head + titled / 2 - 0.04) / height
                fig.text(*at, titles[k * columns + column], fontsize=MEDIUM, ha="center", va="center")
    return fig, grid


def broken(text: str, inches: float, size: float = SMALL) -> str:
    """Text in lines that fit into so many inches."""
    return "\n".join(fill(line, int(inches * 72 / (0.54 * size))) for line in text.split("\n"))


def caption(axes: Sequence[Axes], text: str, layout: Layout | None = None) -> None:
    """Text above a row of pictures: with a layout in one line, its phrases on the colours of their boxes."""
    ax, last = axes[0], axes[-1]
    if layout is None:
        inches = (last.get_position().x1 - ax.get_position().x0) * ax.figure.get_figwidth()
        look = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": SMALL}
        ax.annotate(broken(text, inches), (0, 1), (0, 3), **look)
        return
    starts = [locate(text, region.phrase, region.start) for region in layout.regions]
    words, at = [], 0
    for n in np.argsort(starts):
        end = starts[n] + len(layout.regions[n].phrase)
        chip = {"facecolor": overlay.COLORS[n % len(overlay.COLORS)], "edgecolor": "none", "pad": 1.2}
        words += [_words(text[at : starts[n]].strip()), _words(text[starts[n] : end], bbox=chip)]
        at = end
        if text[at : at + 1] in (",", "."):  # closer to its word than words are to each other
            words[-1] = HPacker(children=[words[-1], _words(text[at])], align="baseline", pad=0, sep=2)
            at += 1
    line = HPacker(children=[*words, _words(text[at:].strip())], align="baseline", pad=0, sep=4)
    corner = {"xy": (0, 1), "xycoords": "axes fraction", "box_alignment": (0, 0)}
    ax.add_artist(AnnotationBbox(line, **corner, pad=0.15, frameon=False, annotation_clip=False))


def _words(text: str, **look) -> TextArea:
    return TextArea(text, textprops={"fontsize": MEDIUM, **look})


def below(ax: Axes, text: str, failed: bool = False) -> None:
    """Small text under a picture; what failed is marked."""
    ax.set_xlabel(text + " ✗" * failed, fontsize=SMALL, color=OTHER if failed else "0.15", labelpad=2)


def draw_arrows(ax: Axes, drag: Drag, shape: Sequence[int], color: str = OTHER) -> None:
    """A drag's handles and targets over a picture of this shape."""
    for move in drag.moves:
        ends = [np.array(point) * (shape[1], shape[0]) - 0.5 for point in (move.handle, move.target)]
        look = {"arrowstyle": "->", "color": color, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", ends[1], ends[0], arrowprops=look)
        ax.plot(*ends[0], "o", color=color, ms=4)
