"""The explorer of masks, for dense geometry alignment (DGA): where the guide finds what a layout asks for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch

from helpers.conditions import Layout
from helpers.figures import overlay
from helpers.figures.traces import TERMS, masks_of, window_of
from helpers.guidance import dga
from helpers.sampling.trace import Record, Trace
from helpers.widgets.colors import color_of
from helpers.widgets.common import Column, Frames, Window, by_region, checked, explore, marked, panels, png
from helpers.widgets.export import Curves
from helpers.widgets.lifetime import Explorer, cell, reopened

LINES = dict(zip(TERMS, ("-", "--", ":"), strict=True))


def measure(record: Record, layout: Layout) -> dict[str, np.ndarray]:
    """The record's masks compared with any layout of its prompt: "iou" (S, N) and DGA's terms (S,)."""
    found = torch.from_numpy(record.maps["dga.masks"]).float() / 255
    targets = layout.masks(*found.shape[-2:]).expand_as(found)
    boxed = torch.tensor([region.mask is None for region in layout.regions])
    masks = torch.where(boxed[:, None, None], dga.soft_box(found), found)
    valid = torch.ones(found.shape[:2], dtype=torch.bool)
    terms = {name: term(masks, targets, valid).numpy() for name, term in dga.TERMS.items()}
    return {"iou": dga.soft_iou(masks, targets).numpy()} | terms


def curves_png(measured: Mapping[str, np.ndarray], window: tuple[float, float], highest: float) -> Curves:
    """IoU per region and the losses over the steps, a PNG per step with a marker there."""
    steps, color = len(measured["iou"]), color_of("dga", acts=window[0] < window[1])
    fig, (left, right) = panels(("IoU with the wanted place", "the guide's losses"), {"dga": window}, steps)
    for n, iou in enumerate(measured["iou"].T):
        left.plot(range(1, steps + 1), iou, color=overlay.COLORS[n % len(overlay.COLORS)], lw=2)
    for name, line in LINES.items():
        right.plot(range(1, steps + 1), measured[name], line, color=color, label=name)
    left.set_ylim(0, 1.02)
    right.set_ylim(0, highest)
    right.legend(fontsize=7.5, loc="upper center", ncols=3, frameon=False, columnspacing=1, handlelength=1.6)
    return marked(fig, (left, right), steps)


def frames_of(record: Record, layout: Layout, window: tuple[float, float], highest: float) -> Frames:
    """Everything that is shown of a record; `layout` is what it is compared with."""
    x0_hat, masks = [], []
    for step, small in enumerate(record.frames):
        frame = overlay.enlarge(small)
        x0_hat.append(png(overlay.draw_wanted(frame, layout)))
        found = overlay.draw_found(overlay.dimmed(frame), masks_of(record, step))
        masks.append(png(overlay.draw_wanted(found, layout)))
    measured = measure(record, layout)
    return Frames((x0_hat, masks), curves_png(measured, window, highest), measured["iou"])


def explore_masks(traces: Mapping[str, Trace] | str | Path) -> Explorer:
    """Baseline beside method, step by step: x0_hat, the guide's masks, the wanted places, IoU and losses.

    traces: case -> Trace, the baseline first, all of the same prompts, seeds and steps; or a folder with <case>/trace.
    """
    traces = checked(traces, ["dga.masks"], "masks", "helpers.experiments.dga.watching or DGA")
    first = next(iter(traces))

    def frames(case: str, k: int, compared: str) -> Frames:
        layout = traces[compared].records[k].layout
        losses = [measure(traces[name].records[k], layout)[term] for name in (first, compared) for term in TERMS]
        window = window_of(traces[case], "dga")
        return frames_of(traces[case].records[k], layout, window, 1.25 * float(np.max(losses)))

    def below(k: int, compared: str, step: int, ious: Sequence[np.ndarray]) -> str:
        columns = {f"IoU, {case}": values for case, values in zip((first, compared), ious, strict=True)}
        return by_region(traces[first].records[k].layout, "phrase (dashed: where it is wanted)", columns)

    def windows(trace: Trace) -> dict[str, Window]:
        return {"dga": window_of(trace, "dga")}

    return reopened(
        "masks",
        cell(),
        lambda before: explore("masks", traces, windows, _column, frames, below, chosen_before=before),
    )


def _column() -> Column:
    """x0_hat beside the masks."""
    images = [widgets.Image(format="png", layout={"width": "49%"}) for _ in range(2)]
    pair = widgets.HBox(images, layout={"justify_content": "space-between"})
    return Column("x&#770;<sub>0</sub> decoded, and what the guide finds in it", images, [pair])
