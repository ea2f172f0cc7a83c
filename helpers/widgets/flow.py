"""The explorer of flow, for dense motion alignment (DMA): where an object is dragged, and where it has got to.

Flows have Baker et al.'s colours (2011): hue is direction, saturation length. Full colour is the longest way that the
drag asks for, whatever is found, so that all steps and cases of a prompt share one scale.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torchvision.utils import flow_to_image

from helpers.conditions import Drag, Layout, Region, decode_image, encode_mask
from helpers.figures import overlay
from helpers.figures.traces import window_of
from helpers.guidance.dma import inside, pixels, splat
from helpers.sampling.trace import Record, Trace
from helpers.widgets.colors import color_of
from helpers.widgets.common import Column, Frames, Window, beside, checked, color_scale, explore, marked, panels, png
from helpers.widgets.export import Curves
from helpers.widgets.lifetime import Explorer, cell, reopened

MAPS = ("dma.flow", "dma.reference", "dma.mask", "dma.error")
LINES = {"displacement": "-", "appearance": "--", "semantic": ":"}
CAPTIONS = (
    "source: handle &rarr; target",
    "mask; dashed: where to",
    "x&#770;&#8320; decoded",  # a <sub> would push its picture down
    "reference flow",
    "estimated flow",
    "warp error",
)
ERROR = colormaps["viridis"]


def longest(drag: Drag) -> float:
    """The longest way from a handle to its target, in pixels of the source."""
    handles, targets = drag.points()
    return float((targets - handles).norm(dim=1).max())


def drag_errors(record: Record) -> dict[str, np.ndarray]:
    """At every step (S,), means over the dragged object as far as it stays in the picture, 0 where nothing does.

    "warp": |I - W| in [0, 1], the source against x0_hat warped back. "flow": the length of the estimated minus the
    reference flow, in pixels of the source.
    """
    flow, reference, error = (
        record.maps[name].astype(np.float32) for name in ("dma.flow", "dma.reference", "dma.error")
    )
    seen = _seen(record)
    area = seen.sum((1, 2)).clip(min=1)
    off = np.linalg.norm(flow - reference, axis=1)
    return {"warp": (error / 255 * seen).sum((1, 2)) / area, "flow": (off * seen).sum((1, 2)) / area}


def _seen(record: Record) -> np.ndarray:
    """The object's pixels that stay in the picture, bool (S, h, w): DMA's V."""
    return (record.maps["dma.mask"] >= 128) & inside(_own_pixels(record)).numpy()


def _own_pixels(record: Record) -> torch.Tensor:
    """The reference flow (S, 2, h, w) in pixels of the maps, which may be smaller than the source."""
    reference = torch.from_numpy(record.maps["dma.reference"]).float()
    return reference * reference.shape[-1] / record.drag.size[1]


def colors(flows: np.ndarray, full: float) -> np.ndarray:
    """(S, 2, h, w) -> uint8 (S, h, w, 3); flows as long as `full` or longer have full colour."""
    flows = torch.from_numpy(flows).float()
    flows = flows * (full / flows.norm(dim=1, keepdim=True).clamp(min=full))
    scale = torch.zeros_like(flows[:1])
    scale[:, 0] = full  # flow_to_image divides by the largest flow of the batch
    return flow_to_image(torch.cat([flows, scale]))[:-1].permute(0, 2, 3, 1).numpy()


@cache
def wheel(side: int = 96) -> bytes:
    """The legend of `colors`, a PNG: the flow from the centre to the rim, which is full colour."""
    flow = pixels(side, side) - (side - 1) / 2
    disc = (flow.norm(dim=0) <= side / 2).numpy()[..., None]
    return png(np.where(disc, colors(flow[None].numpy(), side / 2)[0], np.uint8(255)))


def with_arrows(pictures: Sequence[np.ndarray], size, places: np.ndarray, ways: np.ndarray, **style) -> list[bytes]:
    """A PNG of every picture, (SIDE, SIDE, 3) each, with an arrow from each of the places (k, 2) by its way (S, k, 2).

    size: h, w; places and ways are in pixels of a picture of this size, NaN ways are left out. style: of the arrows.
    """
    height, width = size
    fig = Figure(figsize=(2, 2), dpi=overlay.SIDE / 2)
    canvas = FigureCanvasAgg(fig)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    image = ax.imshow(pictures[0], extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    style = {"edgecolor": "white", "linewidth": 0.6} | style
    arrows = ax.quiver(*places.T, *ways[0].T, angles="xy", scale_units="xy", scale=1, **style)
    drawn = []
    for picture, way in zip(pictures, ways, strict=True):
        image.set_data(picture)
        arrows.set_UVC(*np.ma.masked_invalid(way.T))
        canvas.draw()
        drawn.append(png(np.asarray(canvas.buffer_rgba())[..., :3]))
    return drawn


def draw_drag(drag: Drag) -> bytes:
    """The source with an arrow from each handle to its target, as PNG."""
    source = overlay.enlarge(decode_image(drag.source))
    handles, targets = (points.numpy() for points in drag.points())
    style = {"color": "#d55e00", "width": 0.022, "headwidth": 4, "headlength": 4}
    return with_arrows([source], drag.size, handles, (targets - handles)[None], **style)[0]


def draw_flow(flows: np.ndarray, size: tuple[int, int], full: float, apart: int = 10) -> list[bytes]:
    """Flows (S, 2, h, w) of a source of `size`, in its pixels, as colours with `apart` arrows a side, of true length.

    Ways of less than a pixel of the map have no arrow.
    """
    height, width = flows.shape[-2:]
    y, x = (np.arange(side // apart // 2, side, side // apart) for side in (height, width))
    places = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    ways = flows[:, :, places[:, 1], places[:, 0]].transpose(0, 2, 1).astype(np.float32) * width / size[1]
    ways[np.linalg.norm(ways, axis=2) < 1] = np.nan
    pictures = [overlay.enlarge(picture) for picture in colors(flows, full)]
    return with_arrows(pictures, (height, width), places, ways, color="black", width=0.011)


def place_of(record: Record) -> Layout | None:
    """Where the reference flow takes the mask, as a layout; None when that is nowhere in the picture."""
    mask = torch.from_numpy(record.maps["dma.mask"][:1] >= 128)
    moved = splat(mask, _own_pixels(record)[:1])[0].numpy()
    if not moved.any():
        return None
    region = Region(phrase=record.prompt, start=0, mask=encode_mask(overlay.enlarge(moved, 64)))
    return Layout(prompt=record.prompt, regions=[region])


def frames_of(record: Record, window: tuple[float, float], highest: Mapping[str, float]) -> Frames:
    """Everything that is shown of a record; highest: the ends of the scales, see `_highest`."""
    size, full, steps = record.drag.size, longest(record.drag), len(record.frames)
    source, place = overlay.enlarge(decode_image(record.drag.source)), place_of(record)
    grey = overlay.dimmed(source)
    mask = overlay.crisp(torch.from_numpy(record.maps["dma.mask"][:1] / 255))
    moving = overlay.draw_found(grey, mask)
    seen = [overlay.enlarge(part) for part in _seen(record)]
    errors = [overlay.enlarge(part) for part in record.maps["dma.error"] / 255 / highest["error"]]
    x0_hats = [overlay.enlarge(frame) for frame in record.frames]
    if place:
        moving, *x0_hats = (overlay.draw_wanted(picture, place) for picture in (moving, *x0_hats))
    colored = [np.where(on[..., None], ERROR(error, bytes=True)[..., :3], grey) for on, error in zip(seen, errors)]
    pictures = (
        [draw_drag(record.drag)] * steps,
        [png(moving)] * steps,
        [png(x0_hat) for x0_hat in x0_hats],
        draw_flow(record.maps["dma.reference"][:1], size, full) * steps,
        draw_flow(record.maps["dma.flow"], size, full),
        [png(picture) for picture in colored],
    )
    measured = drag_errors(record)
    return Frames(pictures, curves_png(record, measured, window, highest), np.stack([*measured.values()], 1))


def curves_png(record: Record, measured: Mapping[str, np.ndarray], window, highest) -> Curves:
    """Warp error, flow error and the losses over the steps, a PNG per step with a marker there."""
    steps, color = len(record.frames), color_of("dma", acts=window[0] < window[1])
    fig, axes = panels(("mean warp error", "mean flow error, px", "DMA's losses"), {"dma": window}, steps)
    at = range(1, steps + 1)
    for ax, (name, values) in zip(axes, measured.items()):
        ax.plot(at, values, color=color, lw=2)
        ax.set_ylim(0, 1.1 * highest[name])
    for name, line in LINES.items():
        axes[2].plot(at, record.curves[f"dma.{name}"], line, color=color, label=name)
    axes[2].set_ylim(0, 1.5 * highest["loss"])
    axes[2].legend(fontsize=7, loc="upper right", frameon=False, labelspacing=0.2, handlelength=1.6)
    return marked(fig, axes, steps)


def _highest(records: Sequence[Record]) -> dict[str, float]:
    """The ends of the scales that records share: a pixel's error, the mean errors, the losses."""
    errors = [{"error": record.maps["dma.error"] / 255, **drag_errors(record)} for record in records]
    losses = [record.curves[f"dma.{name}"] for record in records for name in LINES]
    ends = {name: max(found[name].max() for found in errors) for name in errors[0]}
    return {name: max(float(end), 1e-3) for name, end in {**ends, "loss": np.nanmax(losses)}.items()}


def explore_flow(traces: Mapping[str, Trace] | str | Path) -> Explorer:
    """Baseline beside method, step by step: the drag, x0_hat, estimated and reference flow, warp error and losses.

    traces: case -> Trace, the baseline first, all of the same drags, seeds and steps; or a folder with <case>/trace.
    """
    traces = checked(traces, MAPS, "flow", "helpers.experiments.dma.guidance_of or DMA")
    first = next(iter(traces))

    @cache
    def highest(k: int, compared: str) -> dict[str, float]:
        return _highest([traces[case].records[k] for case in (first, compared)])

    def frames(case: str, k: int, compared: str) -> Frames:
        return frames_of(traces[case].records[k], window_of(traces[case], "dma"), highest(k, compared))

    def below(k: int, compared: str, step: int, numbers: Sequence[np.ndarray]) -> str:
        legend = _legend(longest(traces[first].records[k].drag), highest(k, compared)["error"])
        return beside(legend, _table(first, compared, numbers))

    def windows(trace: Trace) -> dict[str, Window]:
        return {"dma": window_of(trace, "dma")}

    return reopened(
        "flow",
        cell(),
        lambda before: explore("flow", traces, windows, _column, frames, below, chosen_before=before),
    )


def _column() -> Column:
    """Two rows of three pictures, each under its caption."""
    framed = {"width": "100%", "border": "1px solid #ccc"}  # no flow is white, as the page is
    images = [widgets.Image(format="png", layout=framed) for _ in CAPTIONS]
    tiles = [
        widgets.VBox([widgets.HTML(caption), image], layout={"width": "33%", "padding": "0 2px"})
        for caption, image in zip(CAPTIONS, images, strict=True)
    ]
    rows = [widgets.HBox(tiles[:3]), widgets.HBox(tiles[3:])]
    return Column("what the drag asks for, and what has come of it", images, rows, CAPTIONS)


def _legend(full: float, error: float) -> str:
    """What the colours of flow and warp error mean."""
    return (
        f"<img src='data:image/png;base64,{b64encode(wheel()).decode()}' width='72' height='72'>"
        f"<span>flow: direction,<br>rim: {full:.0f} px or more</span>"
        + color_scale("warp error", ERROR, Normalize(0, error), ".2f")
    )


def _table(first: str, method: str, numbers: Sequence[np.ndarray]) -> str:
    """The means over the object at this step, baseline and method."""
    rows = "".join(
        f"<tr><td>{name}</td><td>{numbers[0][n]:.{digits}f}</td><td>{numbers[1][n]:.{digits}f}</td></tr>"
        for n, (name, digits) in enumerate({"mean warp error": 3, "mean flow error, px": 1}.items())
    )
    head = f"<tr><th>on the object, at this step</th><th>{escape(first)}</th><th>{escape(method)}</th></tr>"
    return f"<table style='border-spacing:14px 2px'>{head}{rows}</table>"
