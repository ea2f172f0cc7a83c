"""How all figures look: their colours and sizes, a message above and the settings in small print below."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from textwrap import fill

import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

from helpers.figures.palette import reduced

Metrics = Mapping[str, Mapping[str, Mapping]]  # case -> metric -> {"mean", "lo", "hi", "n", "diff"}
BASE, METHOD, OTHER = "#7a7a7a", "#0072b2", "#d55e00"  # the baseline, the method, what is told apart from both
WIDTH = 8.5  # inches of every figure of a report
SMALL, MEDIUM, LARGE = 8, 8.5, 10.5  # points; the smallest is read where the figure is 850 px wide


def use_style() -> None:
    """Fonts and grids of all figures; the images' colour map is viridis."""
    sns.set_theme("notebook", "whitegrid", "colorblind", font_scale=0.9)
    sns.set_style({"axes.edgecolor": "0.7", "grid.color": "0.92", "image.cmap": "viridis"})


def titled(fig: Figure, message: str, note: str = "") -> Figure:
    """The figure with a message above, small print below and everything between in small letters."""
    for ax in fig.axes:
        ax.tick_params(labelsize=SMALL)
        ax.spines[:].set_linewidth(0.8)
        for label in (ax.xaxis.label, ax.yaxis.label, ax.title, ax._left_title):
            label.set_size(MEDIUM)
    fig.suptitle(wrapped(message, fig, LARGE), fontsize=LARGE, fontweight="bold", x=0.01, ha="left")
    if note:
        fig.supxlabel(wrapped(note, fig, SMALL), fontsize=SMALL, color="0.25", x=0.01, ha="left")
    return fig


def wrapped(text: str, fig: Figure, size: float) -> str:
    """The text's lines broken to the figure's width."""
    letters = int(fig.get_figwidth() * 72 / (size * (0.56 if size < LARGE else 0.66)))  # the large ones are bold
    return "\n".join(fill(line, letters) for line in text.split("\n"))


def save(pictures: Mapping[str, Figure], folder: Path) -> None:
    """Every figure as <name>.png: no transparency, a palette of its own, and the best of zlib."""
    for name, picture in pictures.items():
        drawn = BytesIO()
        picture.savefig(drawn, dpi=150)
        reduced(Image.open(drawn)).save(folder / f"{name}.png", optimize=True)
