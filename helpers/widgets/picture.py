"""A picture that says which of its pixels was clicked, or reached with the arrow keys."""

from pathlib import Path

import anywidget
import traitlets


class Picture(anywidget.AnyWidget):
    """value: PNG. point: x and y in shares of the picture, from 0 to 1, or nothing. width: as in CSS."""

    _esm = Path(__file__).with_suffix(".js")
    value = traitlets.Bytes().tag(sync=True)
    point = traitlets.List(traitlets.Float()).tag(sync=True)
    about = traitlets.Unicode("click a pixel").tag(sync=True)
