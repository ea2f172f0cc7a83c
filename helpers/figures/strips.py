"""How one picture comes about, baseline above method, step by step: what a guide sees in x0_hat, and its losses."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torchvision.utils import flow_to_image

from helpers.conditions import decode_image
from helpers.figures import overlay
from helpers.figures.pictures import draw_arrows, show
from helpers.figures.style import BASE, METHOD, SMALL, WIDTH, titled
from helpers.figures.traces import TERMS, masks_of, window_of
from helpers.sampling.trace import Record, Trace


def steps_strip(
    baseline: Trace, method: Trace, names: tuple[str, str], title: str, image: int = 0, shown: int = 6
) -> Figure:
    """How one picture comes about, baseline above method: x0_hat decoded, and the guide's masks over it, at some steps.

    Below: the guide's three losses and the gradient's size at every step; guided steps are shaded. image: which record
    of the Traces. shown: how many steps. title: model, and what else the small print says; prompt and seed are added.
    """
    steps = len(method.timesteps)
    columns = np.linspace(0, steps - 1, min(shown, steps)).round().astype(int)
    fig = Figure(figsize=(WIDTH, 7.4), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=(4, 1.5))
    grid = above.subplots(4, len(columns) + 1)
    for half, trace, name in zip((grid[:2], grid[2:]), (baseline, method), names, strict=True):
        record = trace.records[image]
        for k, step in enumerate(columns):
            frame = overlay.enlarge(record.frames[step])
            show(half[0, k], overlay.draw_wanted(frame, record.layout))
            found = overlay.draw_found(overlay.dimmed(frame), masks_of(record, step))
            show(half[1, k], overlay.draw_wanted(found, record.layout))
        show(half[0, -1], overlay.enlarge(record.final))
        show(half[1, -1], overlay.target(record.layout))
        half[0, -1].set_title("final")
        half[1, -1].set_title("asked for")
        half[0, 0].set_ylabel(f"{name}:\nguess")
        half[1, 0].set_ylabel(f"{name}:\nguide's masks")
    for ax, step in zip(grid[0], columns, strict=False):
        ax.set_title(f"step {step + 1}")
    records = [trace.records[image] for trace in (baseline, method)]
    _curves(below, records, names, {f"dga.{term}": term for term in TERMS}, window_of(method))
    record = method.records[image]
    note = (
        f"{title}, seed {record.seed}. Guess: the denoiser's picture at that step. Dashes: what is asked for; filled: "
        "where the guide sees it. Below: losses and gradient at every step, guided steps shaded."
    )
    return titled(fig, f"How “{record.prompt}” comes about, step by step", note)


def flow_strip(
    baseline: Trace, method: Trace, names: tuple[str, str], title: str, image: int = 0, shown: int = 6
) -> Figure:
    """How an object is dragged, baseline above method: x0_hat decoded, the flow that is seen from the source to it, and
    what a warp back by the reference flow leaves as error, at some steps; the reference flow and the losses.

    Flows share one scale of colours: hue is direction, saturation length. image: which record of the Traces. shown: how
    many steps. title: model, and what else the small print says; prompt and seed are added.
    """
    steps = len(method.timesteps)
    columns = np.linspace(0, steps - 1, min(shown, steps)).round().astype(int)
    records = [trace.records[image] for trace in (baseline, method)]
    reference = records[0].maps["dma.reference"][0]
    every = np.stack([reference, *(record.maps["dma.flow"][step] for record in records for step in columns)])
    colored = flow_to_image(torch.from_numpy(every).float()).permute(0, 2, 3, 1).numpy()
    flows = colored[1:].reshape(2, len(columns), *colored.shape[1:])
    largest = max(record.maps["dma.error"].max() for record in records)
    fig = Figure(figsize=(WIDTH, 10.2), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=(6, 1.5))
    grid = above.subplots(6, len(columns) + 1)
    for half, record, colors, name in zip((grid[:3], grid[3:]), records, flows, names, strict=True):
        for k, step in enumerate(columns):
            show(half[0, k], overlay.enlarge(record.frames[step]))
            show(half[1, k], colors[k])
            show(half[2, k], record.maps["dma.error"][step])
            half[2, k].images[0].set(cmap="magma", clim=(0, largest))
        show(half[0, -1], overlay.enlarge(record.final))
        show(half[1, -1], colored[0])
        source = overlay.enlarge(decode_image(record.drag.source))
        show(half[2, -1], source)
        draw_arrows(half[2, -1], record.drag, source.shape)
        for ax, last in zip(half[:, -1], ("final", "reference", "source, drag"), strict=True):
            ax.set_title(last)
        for ax, what in zip(half[:, 0], ("guess", "flow", "warp error"), strict=True):
            ax.set_ylabel(f"{name}:\n{what}")
    for ax, step in zip(grid[0], columns, strict=False):
        ax.set_title(f"step {step + 1}")
    terms = {"dma.displacement": "displacement", "dma.appearance": "appearance", "dma.semantic": "semantic"}
    _curves(below, records, names, terms, window_of(method, "dma"))
    note = (
        f"{title}, seed {records[0].seed}. Guess: the denoiser's picture at that step. Flow: from the source to the "
        "guess as the guide sees it (hue: direction, saturation: length). Warp error: what is left when the guess is "
        "warped back by the reference flow. Below: losses and gradient at every step, guided steps shaded."
    )
    return titled(fig, f"How “{records[0].prompt}” is dragged, step by step", note)


def _curves(fig, records: Sequence[Record], names: Sequence[str], terms: Mapping[str, str], window) -> None:
    """The losses `terms` (curve -> name) and the gradient of baseline and method, one panel each; the window shaded."""
    titles = {key: f"loss: {name}" for key, name in terms.items()} | {"grad_rms": "size of the gradient"}
    axes = fig.subplots(1, len(titles))
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        for record, name, color in zip(records, names, (BASE, METHOD), strict=True):
            curve = record.curves.get(key)  # a run without guidance has no gradient
            if curve is not None:
                ax.plot(np.arange(1, len(curve) + 1), curve, color=color, label=name)
                ax.set_xlim(0.5, len(curve) + 0.5)
        ax.axvspan(window[0] + 1, window[1] + 1, color=METHOD, alpha=0.1, lw=0)
        ax.set_title(title)
        ax.set_xlabel("step")
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0].legend(fontsize=SMALL)
