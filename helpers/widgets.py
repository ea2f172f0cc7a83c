"""The explorer of masks: ipywidgets over Traces. Nothing is sampled here, and moving the slider only changes pictures.

All pictures of a prompt are made when it is chosen, as PNG bytes; the slider then puts them into `widgets.Image`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from io import BytesIO
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from helpers import overlay
from helpers.conditions import Layout
from helpers.figures import TERMS, masks_of, window_of
from helpers.guidance import dga
from helpers.trace import Record, Trace

LINES = dict(zip(TERMS, ("-", "--", ":"), strict=True))
DPI = 110


@dataclass
class Frames:
    """One record, ready to be shown: a PNG per step of x0_hat, of the guide's masks and of the curves; iou (S, N)."""

    x0_hat: list[bytes]
    masks: list[bytes]
    curves: list[bytes]
    iou: np.ndarray


def measure(record: Record, layout: Layout) -> dict[str, np.ndarray]:
    """The record's masks compared with any layout of its prompt: "iou" (S, N) and DGA's terms (S,)."""
    found = torch.from_numpy(record.maps["dga.masks"]).float() / 255
    targets = layout.masks(*found.shape[-2:]).expand_as(found)
    boxed = torch.tensor([region.mask is None for region in layout.regions])
    masks = torch.where(boxed[:, None, None], dga.soft_box(found), found)
    valid = torch.ones(found.shape[:2], dtype=torch.bool)
    terms = {name: term(masks, targets, valid).numpy() for name, term in dga.TERMS.items()}
    return {"iou": dga.soft_iou(masks, targets).numpy()} | terms


def png(picture: np.ndarray) -> bytes:
    """uint8 (H, W, 3) -> PNG."""
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "png", compress_level=3)
    return stream.getvalue()


def curves_png(measured: Mapping[str, np.ndarray], window: tuple[float, float], highest: float) -> list[bytes]:
    """IoU per region and the losses over the steps, drawn once; then one copy per step with a marker there."""
    steps = len(measured["iou"])
    fig = Figure(figsize=(5.2, 2.3), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(fig)
    left, right = fig.subplots(1, 2)
    for n, iou in enumerate(measured["iou"].T):
        left.plot(range(1, steps + 1), iou, color=overlay.COLORS[n % len(overlay.COLORS)], lw=2)
    for name, line in LINES.items():
        right.plot(range(1, steps + 1), measured[name], line, color="0.15", label=name)
    left.set_ylim(0, 1.02)
    right.set_ylim(0, highest)
    right.legend(fontsize=7.5, loc="upper center", ncols=3, frameon=False, columnspacing=1, handlelength=1.6)
    for ax, title in ((left, "IoU with the wanted place"), (right, "the guide's losses")):
        ax.axvspan(window[0] + 1, window[1] + 1, color="#0072b2", alpha=0.1, lw=0)
        ax.set_xlim(0.5, steps + 0.5)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("step", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    pictures = []
    for step in range(1, steps + 1):
        picture = drawn.copy()
        for ax in (left, right):
            (x, low), (_, high) = ax.transData.transform([(step, ax.get_ylim()[0]), (step, ax.get_ylim()[1])])
            rows = slice(len(picture) - round(high), len(picture) - round(low))
            picture[rows, round(x) - 1 : round(x) + 1] = (200, 30, 30)
        pictures.append(png(picture))
    return pictures


def frames_of(record: Record, layout: Layout, window: tuple[float, float], highest: float) -> Frames:
    """Everything that is shown of a record; `layout` is what it is compared with."""
    x0_hat, masks = [], []
    for step, small in enumerate(record.frames):
        frame = overlay.enlarge(small)
        x0_hat.append(png(overlay.draw_wanted(frame, layout)))
        found = overlay.draw_found(overlay.dimmed(frame), masks_of(record, step))
        masks.append(png(overlay.draw_wanted(found, layout)))
    measured = measure(record, layout)
    return Frames(x0_hat, masks, curves_png(measured, window, highest), measured["iou"])


def load_traces(folder: str | Path) -> dict[str, Trace]:
    """case -> Trace of every folder/<case>/trace, the case none first; FileNotFoundError when there are not two."""
    found = sorted(Path(folder).glob("*/trace"), key=lambda path: (path.parent.name != "none", path.parent.name))
    if len(found) < 2:
        raise FileNotFoundError(
            f"{folder} holds {len(found)} traces (folders <case>/trace): two are compared here, make them with "
            "`dvc repro sample_dga@none sample_dga@full`"
        )
    return {path.parent.name: Trace.load(path) for path in found}


def check(traces: Mapping[str, Trace]) -> None:
    """ValueError unless the Traces show the same prompts, seeds and steps, with the guide's masks."""
    if len(traces) < 2:
        raise ValueError(f"the traces are {list(traces)}: give a baseline and at least one case, such as none and full")
    (first, baseline), *others = traces.items()
    for name, trace in traces.items():
        if any("dga.masks" not in record.maps for record in trace.records):
            raise ValueError(f"the trace {name!r} has no masks: sample it with helpers.experiments.dga.watching or DGA")
    for name, trace in others:
        same = [(r.prompt, r.seed) for r in trace.records] == [(r.prompt, r.seed) for r in baseline.records]
        if not same or trace.timesteps != baseline.timesteps:
            raise ValueError(
                f"the traces {first!r} and {name!r} differ in prompts, seeds or steps: sample both with one profile"
            )


def explore_masks(traces: Mapping[str, Trace] | str | Path) -> widgets.Widget:
    """Baseline beside method, step by step: x0_hat, the guide's masks, the wanted places, IoU and losses.

    traces: case -> Trace, the baseline first, all of the same prompts, seeds and steps; or a folder with <case>/trace.
    """
    traces = load_traces(traces) if isinstance(traces, str | Path) else dict(traces)
    check(traces)
    first, *methods = traces
    records, timesteps, sigmas = traces[first].records, traces[first].timesteps, traces[first].sigmas
    steps = len(timesteps)

    options = [(f"{r.prompt} (seed {r.seed})", k) for k, r in enumerate(records)]
    prompt = widgets.Dropdown(options=options, description="prompt", layout={"width": "55%"})
    method = widgets.Dropdown(options=methods, description="method", layout={"width": "25%"})
    slider = widgets.IntSlider(1, 1, steps, description="step", continuous_update=False, layout={"width": "60%"})
    play = widgets.Play(value=1, min=1, max=steps, interval=250, show_repeat=False)
    widgets.jslink((play, "value"), (slider, "value"))
    label, table = widgets.HTML(), widgets.HTML()
    columns = [_Column(), _Column()]

    @cache
    def frames(case: str, k: int, compared: str) -> Frames:
        layout = traces[compared].records[k].layout
        losses = [measure(traces[name].records[k], layout)[term] for name in (first, compared) for term in TERMS]
        return frames_of(traces[case].records[k], layout, window_of(traces[case]), 1.25 * float(np.max(losses)))

    def show(_=None) -> None:
        step, k = slider.value - 1, prompt.value
        shown = [frames(case, k, method.value) for case in (first, method.value)]
        for column, case, part in zip(columns, (first, method.value), shown, strict=True):
            column.show(case, part, step)
        begin, end = window_of(traces[method.value])
        acts = "guided" if begin < step < end else "not guided"
        label.value = (
            f"<b>step {step + 1} of {steps}</b> &nbsp; t = {timesteps[step]}, "
            f"&sigma;<sub>t</sub> = {sigmas[step]:.2f}, {method.value} is {acts} here"
        )
        table.value = _table(records[k].layout, first, method.value, [part.iou[step] for part in shown])

    for control in (prompt, method, slider):
        control.observe(show, "value")
    show()
    head = widgets.HBox([prompt, method])
    moves = widgets.HBox([play, slider])
    return widgets.VBox([head, moves, label, widgets.HBox([column.box for column in columns]), table])


class _Column:
    """One case: its name, x0_hat beside the masks, the curves below."""

    def __init__(self):
        self.title = widgets.HTML()
        self.x0_hat, self.masks = (widgets.Image(format="png", layout={"width": "49%"}) for _ in range(2))
        self.curves = widgets.Image(format="png", layout={"width": "100%"})
        pair = widgets.HBox([self.x0_hat, self.masks], layout={"justify_content": "space-between"})
        self.box = widgets.VBox([self.title, pair, self.curves], layout={"width": "50%", "padding": "0 8px"})

    def show(self, case: str, frames: Frames, step: int) -> None:
        self.title.value = f"<b>{escape(case)}</b>: x&#770;<sub>0</sub> decoded, and what the guide finds in it"
        self.x0_hat.value, self.masks.value = frames.x0_hat[step], frames.masks[step]
        self.curves.value = frames.curves[step]


def _table(layout: Layout, first: str, method: str, ious) -> str:
    """The regions' colours, phrases and IoU at this step, baseline and method."""
    rows = "".join(
        f"<tr><td><span style='display:inline-block;width:14px;height:14px;background:"
        f"{overlay.COLORS[n % len(overlay.COLORS)]}'></span> {escape(region.phrase)}</td>"
        f"<td>{ious[0][n]:.2f}</td><td>{ious[1][n]:.2f}</td></tr>"
        for n, region in enumerate(layout.regions)
    )
    head = f"<tr><th>phrase (dashed: where it is wanted)</th><th>IoU, {escape(first)}</th>"
    return f"<table style='border-spacing:14px 2px'>{head}<th>IoU, {escape(method)}</th></tr>{rows}</table>"
