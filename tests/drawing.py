"""What tests of figures share: that a figure can be drawn and read, what it says and shows, and numbers by hand."""

from io import BytesIO
from itertools import combinations
from unittest.mock import patch

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

READ = 8  # points: the smallest text that is read where a figure of 8.5 inches is 850 px wide


def drawn(fig: Figure) -> np.ndarray:
    """A figure as pixels: that it can be drawn at all, and not empty."""
    stream = BytesIO()
    fig.savefig(stream, dpi=50)
    pixels = np.asarray(Image.open(stream).convert("RGB"))
    assert pixels.std() > 5
    return pixels


def illegible(fig: Figure) -> list[str]:
    """What cannot be read: texts that are drawn over each other, leave the figure or are too small."""
    drawn, draw = {}, Text.draw

    def noted(text, renderer):
        if text.get_visible() and text.get_text().strip():
            drawn[text] = Bbox.from_extents(*Text.get_window_extent(text, renderer).padded(-1).extents)
        draw(text, renderer)

    with patch.object(Text, "draw", noted):
        fig.draw_without_rendering()
    frame, width = fig.bbox, fig.get_figwidth()
    said = {text: text.get_text().replace("\n", " ") for text in drawn}
    over = [
        f"{said[one]!r} over {said[other]!r}"
        for one, other in combinations(drawn, 2)
        if drawn[one].overlaps(drawn[other])
    ]
    outside = [
        f"{said[text]!r} leaves the figure"
        for text, box in drawn.items()
        if (box.min < frame.min).any() or (box.max > frame.max).any()
    ]
    small = [f"{said[text]!r} is small" for text in drawn if text.get_fontsize() * 8.5 / width < READ - 1e-6]
    return over + outside + small


def texts(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def shown(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def arrows(ax):
    return [text for text in ax.texts if text.arrow_patch is not None]


def entry(mean, diff=0.0, half=0.05):
    interval = {"mean": diff, "lo": diff - half, "hi": diff + half}
    return {"mean": mean, "lo": mean - half, "hi": mean + half, "n": 96, "diff": interval}


def lost(value):
    """A metric that does not exist, such as the colours of objects that are never there."""
    return {"mean": value, "diff": {"mean": value, "lo": value, "hi": value}}


def curve(values, metric, start=0.5, baseline=0.1):
    """value -> metric -> entry, as the notebook writes it."""

    def point(mean, far):
        return {metric: entry(mean), "kernel_distance": entry(far)}

    turned = {f"{value:g}": point(start - 0.01 * k, 0.1 + 0.1 * k) for k, value in enumerate(values)}
    return {"none": point(baseline, 0.05)} | turned


def found_by(*ious, best=0):
    """A search that tried as many scales."""
    tried = [{"scale": 10.0 * k} if k else {} for k in range(len(ious))]
    numbers = ("recall", "kernel_distance", "attribute_acc", "nfe")
    entries = [
        {"options": options, "box_iou": entry(iou)} | {name: entry(iou / 2) for name in numbers}
        for options, iou in zip(tried, ious, strict=True)
    ]
    return {"best": tried[best], "tried": entries}


SEARCHES = {"ilgd": found_by(0.2, 0.4, 0.3, best=1), "boxdiff": found_by(0.5, 0.1)}
