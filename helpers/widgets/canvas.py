"""A picture on which boxes and arrows are drawn: what a person asks for, by mouse, touch or keyboard.

The drawing happens in the browser (canvas.js), also while Python computes; Python sees a shape when its gesture ends.
"""

from pathlib import Path

import anywidget
import traitlets

from helpers.figures.overlay import COLORS

STYLE = """
.canvas-widget svg { background: #ececec; touch-action: none; cursor: crosshair; display: block; max-width: 100%; }
.canvas-widget svg image { image-rendering: pixelated; }
.canvas-widget svg:focus-visible { outline: 2px solid #1b6ac9; outline-offset: 2px; }
.canvas-box { fill-opacity: 0.12; stroke-width: 0.008; stroke-dasharray: 0.03 0.015; cursor: move; }
.canvas-label { font: bold 0.042px sans-serif; fill: #111; stroke: #fff; stroke-width: 0.012; paint-order: stroke; }
.canvas-halo { stroke: #fff; stroke-width: 0.022; cursor: move; }
.canvas-arrow { stroke: #111; stroke-width: 0.01; cursor: move; }
.canvas-end { fill: #fff; stroke: #111; stroke-width: 0.006; cursor: nwse-resize; }
.canvas-off { pointer-events: none; opacity: 0.35; }
.canvas-widget g[role="button"]:focus { outline: none; }
.canvas-widget g[aria-pressed="true"] .canvas-box { stroke-dasharray: none; stroke-width: 0.014; }
.canvas-said { font: 12px sans-serif; min-height: 16px; color: #555; }
"""


class Canvas(anywidget.AnyWidget):
    """picture: PNG, shown as a square of `side` pixels. boxes: {"label", "box": [x0, y0, x1, y1]}; arrows: {"handle":
    [x, y], "target": [x, y]}; all in shares of the picture, from 0 to 1. labels: what a box may be of, each at most
    once; label: what the next one is of. mode: what is drawn next, "box" or "arrow".
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = STYLE
    picture = traitlets.Bytes().tag(sync=True)
    side = traitlets.Int(320).tag(sync=True)
    boxes = traitlets.List(traitlets.Dict()).tag(sync=True)
    arrows = traitlets.List(traitlets.Dict()).tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    mode = traitlets.Enum(("box", "arrow"), "box").tag(sync=True)
    colors = traitlets.List(traitlets.Unicode(), list(COLORS)).tag(sync=True)
