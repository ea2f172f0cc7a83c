"""What an explorer shows as one SVG file: pictures inside, curves as lines, words as text."""

import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape, unescape
from io import StringIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.files import writing
from helpers.paths import ROOT

WIDTH, GAP, LINE = 520, 20, 18  # of a column, between parts, of a line of text, in pixels
FOLDER = ROOT / "out" / "explore"


class Curves(list):
    """PNGs of a figure, one per step with a marker there, and the figure itself."""

    def __init__(self, pictures: Sequence[bytes], figure: Figure, axes: Sequence[Axes]):
        super().__init__(pictures)
        self.figure, self.axes = figure, axes

    def svg(self, step: int) -> str:
        """The figure as an <svg> element, `step` counted from 0."""
        lines = [ax.axvline(step + 1, color="#c81e1e", lw=1.5) for ax in self.axes]
        stream = StringIO()
        with mpl.rc_context({"svg.fonttype": "none"}):
            self.figure.savefig(stream, format="svg")
        for line in lines:
            line.remove()
        return stream.getvalue()[stream.getvalue().index("<svg") :]


def words(text: str, x: float, y: float) -> str:
    """A line of text; HTML becomes plain."""
    plain = escape(unescape(re.sub(r"<[^>]*>", "", text)))
    return f'<text x="{x:g}" y="{y:g}" font-family="sans-serif" font-size="13">{plain}</text>'


def column(title: str, pictures: Sequence[bytes], captions: Sequence[str], a_row: int, curves: str, x: float) -> tuple:
    """A case from `x` on: its SVG and how high it is."""
    side = min((WIDTH - GAP * (a_row - 1)) / a_row, WIDTH / 2)
    parts, y = [words(title, x, LINE)], LINE + GAP / 2
    for k, picture in enumerate(pictures):
        left, top = x + k % a_row * (side + GAP), y + k // a_row * (side + LINE + GAP / 2)
        caption = captions[k] if captions else ""
        parts.append(words(caption, left, top + LINE - 5) if caption else "")
        data = b64encode(picture).decode()
        place = f'x="{left:g}" y="{top + LINE:g}" width="{side:g}" height="{side:g}"'
        parts.append(f'<image {place} href="data:image/png;base64,{data}"/>')
    y += -(-len(pictures) // a_row) * (side + LINE + GAP / 2) + GAP
    _, _, width, height = map(float, re.search(r'viewBox="([^"]*)"', curves)[1].split())
    sized = re.sub(r'^<svg[^>]*viewBox="([^"]*)"[^>]*>', "", curves, count=1)
    high = WIDTH * height / width
    head = f'<svg x="{x:g}" y="{y:g}" width="{WIDTH}" height="{high:g}" viewBox="0 0 {width:g} {height:g}">'
    return "".join([*parts, head, sized]), y + high


def document(head: Sequence[str], columns: Sequence[tuple[str, float]], xs: Sequence[float]) -> str:
    """Lines of text above columns side by side."""
    top = LINE * (len(head) + 1)
    width, height = xs[-1] + WIDTH + GAP, top + max(high for _, high in columns) + GAP
    inner = "".join(words(text, GAP, LINE * (n + 1)) for n, text in enumerate(head))
    inner += "".join(f'<g transform="translate(0 {top})">{part}</g>' for part, _ in columns)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    paper = '<rect width="100%" height="100%" fill="white"/>'
    return (
        f'<svg {names} viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">{paper}{inner}</svg>\n'
    )


def saved(svg: str, *names: object) -> Path:
    """Written to out/explore under these names."""
    path = FOLDER / ("-".join(re.sub(r"[^\w.]+", "_", str(name)) for name in names) + ".svg")
    with writing(path) as file:
        file.write(svg)
    return path
