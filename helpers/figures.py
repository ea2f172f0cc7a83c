"""Figures: of Traces (what a few runs looked like) and of metrics.json (what all of them amount to).

Every function returns a matplotlib Figure and shows nothing; `use_style` is the only one that touches global settings.
The baseline stands left or above, panels that are compared share their limits, nothing is picked by hand.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torchvision.utils import flow_to_image

from helpers import overlay
from helpers.conditions import Drag, decode_image
from helpers.miniature.combined import Case as Combined
from helpers.miniature.drags import Case
from helpers.trace import Record, Trace

Metrics = Mapping[str, Mapping[str, Mapping]]  # case -> metric -> {"mean", "lo", "hi", "n", "diff"}
UNKNOWN = dict.fromkeys(("mean", "lo", "hi"), np.nan)  # a difference to a case that was not run
TERMS = ("coverage", "size", "distance")
BASE, METHOD = "#7a7a7a", "#0072b2"
LESS_IS_BETTER = {
    "kernel_distance", "frechet", "extra_objects", "size_error", "distance_error", "drag_md", "center_dist", "nfe",
    "seconds", "peak_mb",
}  # fmt: skip
NEITHER = {"contrast", "saturation"}  # far from the baseline's is bad, in either direction


def arrow(name: str) -> str:
    """Which way a metric is better."""
    return "" if name in NEITHER else "↓" if name in LESS_IS_BETTER else "↑"


def use_style() -> None:
    """Fonts and grids of all figures; the images' colour map is viridis."""
    sns.set_theme("notebook", "whitegrid", "colorblind", font_scale=0.9)
    sns.set_style({"axes.edgecolor": "0.7", "grid.color": "0.92", "image.cmap": "viridis"})


def _show(ax: Axes, picture: np.ndarray) -> None:
    ax.imshow(picture)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def masks_of(record: Record, step: int) -> np.ndarray:
    """What the guide found at a step, bool (N, SIDE, SIDE)."""
    return overlay.crisp(torch.from_numpy(record.maps["dga.masks"][step]).float() / 255)


def window_of(trace: Trace, method: str = "dga") -> tuple[float, float]:
    """First guided step and the one after the last, as the steps' places on an axis (half a step to either side)."""
    window = trace.settings.get(method, {}).get("window", {"start": 0, "stop": 0})
    steps = len(trace.timesteps)
    first, last = (int(np.ceil(window[key] * steps - 1e-6)) for key in ("start", "stop"))
    return first - 0.5, last - 0.5


def _grid(
    rows: int, titles: Sequence[str], cell: tuple[float, float], title: str, **settings
) -> tuple[Figure, np.ndarray]:
    """A figure of rows x len(titles) panels of `cell` inches, each column under its title; and the panels."""
    fig = Figure(figsize=(cell[0] * len(titles) + 0.4, cell[1] * rows + 0.5), layout="constrained")
    grid = fig.subplots(rows, len(titles), squeeze=False, **settings)
    for ax, name in zip(grid[0], titles, strict=True):
        ax.set_title(fill(name.replace("_", " "), 16), fontsize=10)
    fig.suptitle(title, fontsize=10)
    return fig, grid


def case_grid(traces: Mapping[str, Trace], scores: Mapping[str, Sequence[Mapping]], title: str) -> Figure:
    """Rows: the showcase prompts; columns: the wanted layout, then the cases in the order of `traces` (baseline first).

    scores: case -> the judge's numbers, a row for each image of the run. title: model, steps. Dashes are what the case
    was asked for (the baseline was not told).
    """
    first = next(iter(traces.values())).records
    fig, grid = _grid(len(first), ("wanted", *traces), (1.75, 2.12), title)
    for row, axes in enumerate(grid):
        records = {case: trace.records[row] for case, trace in traces.items()}
        asked = {record.layout: None for record in records.values()}  # boxes, silhouettes or both
        wanted = overlay.target(max(asked, key=lambda layout: sum(r.mask is not None for r in layout.regions)))
        for layout in asked:
            wanted = overlay.draw_wanted(wanted, layout)
        _show(axes[0], wanted)
        axes[0].set_xlabel(fill(f"{first[row].prompt}, seed {first[row].seed}", 28), fontsize=8)
        for ax, (case, record) in zip(axes[1:], records.items(), strict=True):
            _show(ax, overlay.draw_wanted(overlay.enlarge(record.final), record.layout))
            found = scores[case][record.index]
            ax.set_xlabel(f"IoU: box {found['box_iou']:.2f}, mask {found['mask_iou']:.2f}", fontsize=8)
    return fig


def prompt_grid(traces: Mapping[str, Trace], scores: Mapping[str, Sequence[Mapping]], title: str) -> Figure:
    """Rows: the showcase prompts; columns: the cases in the order of `traces` (baseline first).

    scores: case -> the judge's numbers, a row for each image of the run; "-" is a prompt without relations.
    """
    first = next(iter(traces.values())).records
    widths = [1.3, *[1] * len(traces)]
    fig, grid = _grid(len(first), ("", *traces), (1.9, 2.05), title, width_ratios=widths)
    for row, axes in enumerate(grid):
        record = first[row]
        axes[0].text(0, 0.5, fill(f"{record.prompt} (seed {record.seed})", 26), fontsize=8.5, va="center")
        axes[0].set_axis_off()
        for ax, (case, trace) in zip(axes[1:], traces.items(), strict=True):
            _show(ax, overlay.enlarge(trace.records[row].final))
            found = scores[case][trace.records[row].index]
            shares = ["-" if np.isnan(found[key]) else f"{found[key]:.2f}" for key in ("attribute_acc", "relation_acc")]
            ax.set_xlabel(f"attributes {shares[0]}, relations {shares[1]}", fontsize=7.5)
    return fig


def _arrows(ax: Axes, drag: Drag, shape: Sequence[int], color: str = "#d55e00") -> None:
    """A drag's handles and targets over a picture of this shape."""
    for move in drag.moves:
        ends = [np.array(point) * (shape[1], shape[0]) - 0.5 for point in (move.handle, move.target)]
        ax.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "color": color, "lw": 2})
        ax.plot(*ends[0], "o", color=color, ms=4)


def drag_grid(
    traces: Mapping[str, Trace], drags: Sequence[Case], scores: Mapping[str, Sequence[Mapping]], title: str
) -> Figure:
    """Rows: the showcase drags; columns: source with the drag, the rendered edit, the cases (baseline first).

    drags: the benchmark cases, in the order of the run; scores: case -> the judge's numbers, a row for each of them.
    """
    first = next(iter(traces.values())).records
    fig, grid = _grid(len(first), ("source, drag", "wanted", *traces), (1.75, 2.12), title)
    for row, axes in enumerate(grid):
        record = first[row]
        source = overlay.enlarge(decode_image(record.drag.source))
        _show(axes[0], source)
        _arrows(axes[0], record.drag, source.shape)
        axes[0].set_xlabel(fill(f"{record.prompt}, seed {record.seed}", 28), fontsize=8)
        _show(axes[1], overlay.enlarge(drags[record.index].edited()))
        for ax, (case, trace) in zip(axes[2:], traces.items(), strict=True):
            _show(ax, overlay.enlarge(trace.records[row].final))
            found = scores[case][record.index]
            ax.set_xlabel(f"{found['drag_md']:.1f} px off, fidelity {found['edit_fidelity']:.2f}", fontsize=8)
    return fig


def combination_grid(
    traces: Mapping[str, Trace], scenes: Sequence[Combined], scores: Mapping[str, Sequence[Mapping]], title: str
) -> Figure:
    """Rows: the showcase scenes; columns: source with the drag, then the cases; dashes are the wanted boxes.

    scenes: the benchmark cases, in the order of the run; scores: case -> the judge's numbers, a row for each of them.
    """
    first = next(iter(traces.values())).records
    fig, grid = _grid(len(first), ("source, drag, wanted", *traces), (1.6, 2.25), title)
    for row, axes in enumerate(grid):
        asked = scenes[first[row].index]
        source, wanted = overlay.enlarge(decode_image(asked.drag.drag.source)), asked.scene.layout.boxes_only()
        _show(axes[0], overlay.draw_wanted(source, wanted))
        _arrows(axes[0], asked.drag.drag, source.shape)
        axes[0].set_xlabel(fill(asked.prompt, 34), fontsize=5.5)
        for ax, (case, trace) in zip(axes[1:], traces.items(), strict=True):
            _show(ax, overlay.draw_wanted(overlay.enlarge(trace.records[row].final), wanted))
            found = scores[case][first[row].index]
            ax.set_xlabel(f"IoU {found['box_iou']:.2f}, {found['center_dist']:.0f} px off", fontsize=7)
    return fig


def cosines_plot(traces: Mapping[str, Trace], title: str) -> Figure:
    """Do modules pull the same way? Cosine of their gradients over the steps, mean and range over the showcase; one
    panel per case that combines some."""
    curves = {
        case: {key for record in trace.records for key in record.curves if key.startswith("cosine.")}
        for case, trace in traces.items()
    }
    shown = {case: sorted(keys) for case, keys in curves.items() if keys}
    fig = Figure(figsize=(3.1 * max(len(shown), 1) + 0.6, 2.9), layout="constrained")
    axes = np.atleast_1d(fig.subplots(1, max(len(shown), 1), sharey=True))
    for ax, (case, keys) in zip(axes, shown.items(), strict=False):
        for key in keys:
            values = np.stack([record.curves[key] for record in traces[case].records])
            known = np.flatnonzero(np.isfinite(values).all(0))
            (line,) = ax.plot(known + 1, values[:, known].mean(0), label=" and ".join(key.split(".")[1:]))
            ax.fill_between(
                known + 1, values[:, known].min(0), values[:, known].max(0), color=line.get_color(), alpha=0.15
            )
        ax.axhline(0, color=BASE, ls="--", lw=1)
        ax.set(xlabel="step", title=case.replace("_", ", "))
        ax.legend(fontsize=8)
    axes[0].set_ylabel("cosine of gradients")
    fig.suptitle(title, fontsize=10)
    return fig


def cost_plot(metrics: Metrics, modules: Mapping[str, int], title: str) -> Figure:
    """What k modules cost: seconds, evaluations of the denoiser and memory per image, over k.

    modules: case -> k. "paper" cases take one gradient of the weighted sum and do every step once; the others one
    gradient per module, and repeat early steps.
    """
    names = {"seconds": "seconds per image", "nfe": "evaluations of the U-Net", "peak_mb": "peak memory of a batch, MB"}
    rows = [
        {"k": k, "weights": "paper, one gradient" if case.endswith("_paper") else "tuned, one each",
         **{name: metrics[case][name]["mean"] for name in names}}
        for case, k in modules.items()
    ]  # fmt: skip
    fig = Figure(figsize=(10, 2.9), layout="constrained")
    for ax, (name, label) in zip(fig.subplots(1, len(names)), names.items(), strict=True):
        sns.stripplot(pd.DataFrame(rows), x="k", y=name, hue="weights", dodge=True, jitter=False, ax=ax)
        ax.set(xlabel="modules", ylabel=label, ylim=(0, None))
        ax.legend(fontsize=7.5)
    fig.suptitle(title, fontsize=10)
    return fig


def flow_strip(
    baseline: Trace, method: Trace, names: tuple[str, str], title: str, image: int = 0, shown: int = 6
) -> Figure:
    """How an object is dragged, baseline above method: x0_hat decoded, the flow that is seen from the source to it, and
    what a warp back by the reference flow leaves as error, at some steps; the reference flow and the losses.

    Flows share one scale of colours: hue is direction, saturation length. image: which record of the Traces. shown: how
    many steps. title: model, and what else is to be said; prompt and seed are added.
    """
    steps = len(method.timesteps)
    columns = np.linspace(0, steps - 1, min(shown, steps)).round().astype(int)
    records = [trace.records[image] for trace in (baseline, method)]
    reference = records[0].maps["dma.reference"][0]
    every = np.stack([reference, *(record.maps["dma.flow"][step] for record in records for step in columns)])
    colored = flow_to_image(torch.from_numpy(every).float()).permute(0, 2, 3, 1).numpy()
    flows = colored[1:].reshape(2, len(columns), *colored.shape[1:])
    largest = max(record.maps["dma.error"].max() for record in records)
    fig = Figure(figsize=(1.45 * (len(columns) + 1), 11.5), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=(6, 1.5))
    grid = above.subplots(6, len(columns) + 1)
    for half, record, colors, name in zip((grid[:3], grid[3:]), records, flows, names, strict=True):
        for k, step in enumerate(columns):
            _show(half[0, k], overlay.enlarge(record.frames[step]))
            _show(half[1, k], colors[k])
            _show(half[2, k], record.maps["dma.error"][step])
            half[2, k].images[0].set(cmap="magma", clim=(0, largest))
        _show(half[0, -1], overlay.enlarge(record.final))
        _show(half[1, -1], colored[0])
        source = overlay.enlarge(decode_image(record.drag.source))
        _show(half[2, -1], source)
        _arrows(half[2, -1], record.drag, source.shape)
        for ax, last in zip(half[:, -1], ("final", "reference", "source, drag"), strict=True):
            ax.set_title(last, fontsize=9)
        for ax, what in zip(half[:, 0], ("$\\hat x_0$", "flow", "warp error"), strict=True):
            ax.set_ylabel(f"{name}\n{what}", fontsize=10)
    for ax, step in zip(grid[0], columns, strict=False):
        ax.set_title(f"step {step + 1}, t={method.timesteps[step]}", fontsize=9)
    terms = {"dma.displacement": "displacement", "dma.appearance": "appearance", "dma.semantic": "semantic"}
    _curves(below, records, names, terms, window_of(method, "dma"))
    fig.suptitle(f"{title}\n“{records[0].prompt}”, seed {records[0].seed}, {steps} steps", fontsize=10)
    return fig


def objects_plot(images: pd.DataFrame, names: Sequence[str], title: str) -> Figure:
    """One panel per caption (rows) and metric (columns): means over the number of objects with 95 % intervals, by
    guidance.

    images: a line per image with "guidance" (none or full), "caption", "objects" and the metrics.
    """
    captions = images["caption"].unique()
    fig = Figure(figsize=(3.0 * len(names) + 0.8, 1.9 * len(captions) + 0.6), layout="constrained")
    grid = fig.subplots(len(captions), len(names), squeeze=False, sharex=True, sharey=True)
    palette = {"none": BASE, "full": METHOD}
    for axes, caption in zip(grid, captions, strict=True):
        chosen = images[images["caption"] == caption]
        for ax, name in zip(axes, names, strict=True):
            sns.pointplot(
                chosen, x="objects", y=name, hue="guidance", hue_order=palette, palette=palette, ax=ax, seed=0,
                native_scale=True, dodge=0.15, markersize=4, linewidth=1.5, err_kws={"linewidth": 1.2},
            )  # fmt: skip
            ax.set(title=name if ax in grid[0] else "", xlabel="", ylabel="", ylim=(0, 1.05))
            ax.get_legend().remove()
        axes[0].set_ylabel(f"{caption} captions")
    for ax in grid[-1]:
        ax.set_xlabel("objects in the prompt")
    grid[0, 0].legend(fontsize=8, loc="lower left")
    fig.suptitle(title + "; 5 and 6 objects lie outside the training distribution", fontsize=10)
    return fig


def steps_strip(
    baseline: Trace, method: Trace, names: tuple[str, str], title: str, image: int = 0, shown: int = 6
) -> Figure:
    """How one picture comes about, baseline above method: x0_hat decoded, and the guide's masks over it, at some steps.

    Below: the guide's three losses and the gradient's size at every step; guided steps are shaded. image: which record
    of the Traces. shown: how many steps. title: model, and what else is to be said; prompt and seed are added.
    """
    steps = len(method.timesteps)
    columns = np.linspace(0, steps - 1, min(shown, steps)).round().astype(int)
    fig = Figure(figsize=(1.45 * (len(columns) + 1), 9.2), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=(4, 1.35))
    grid = above.subplots(4, len(columns) + 1)
    for half, trace, name in zip((grid[:2], grid[2:]), (baseline, method), names, strict=True):
        record = trace.records[image]
        for k, step in enumerate(columns):
            frame = overlay.enlarge(record.frames[step])
            _show(half[0, k], overlay.draw_wanted(frame, record.layout))
            found = overlay.draw_found(overlay.dimmed(frame), masks_of(record, step))
            _show(half[1, k], overlay.draw_wanted(found, record.layout))
        _show(half[0, -1], overlay.enlarge(record.final))
        _show(half[1, -1], overlay.target(record.layout))
        half[0, -1].set_title("final", fontsize=9)
        half[1, -1].set_title("wanted", fontsize=9)
        half[0, 0].set_ylabel(f"{name}\n$\\hat x_0$", fontsize=10)
        half[1, 0].set_ylabel(f"{name}\nguide's masks", fontsize=10)
    for ax, step in zip(grid[0], columns, strict=False):
        ax.set_title(f"step {step + 1}, t={method.timesteps[step]}", fontsize=9)
    records = [trace.records[image] for trace in (baseline, method)]
    _curves(below, records, names, {f"dga.{term}": term for term in TERMS}, window_of(method))
    record = method.records[image]
    fig.suptitle(f"{title}\n“{record.prompt}”, seed {record.seed}, {steps} steps", fontsize=10)
    return fig


def _curves(fig, records: Sequence[Record], names: Sequence[str], terms: Mapping[str, str], window) -> None:
    """The losses `terms` (curve -> name) and the gradient of baseline and method, one panel each; the window shaded."""
    titles = {key: f"loss: {name}" for key, name in terms.items()} | {"grad_rms": "rms of the gradient"}
    axes = fig.subplots(1, len(titles))
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        for record, name, color in zip(records, names, (BASE, METHOD), strict=True):
            curve = record.curves.get(key)  # a run without guidance has no gradient
            if curve is not None:
                ax.plot(np.arange(1, len(curve) + 1), curve, color=color, label=name)
                ax.set_xlim(0.5, len(curve) + 0.5)
        ax.axvspan(window[0] + 1, window[1] + 1, color=METHOD, alpha=0.1, lw=0)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("step", fontsize=9)
        ax.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)


def cases_plot(metrics: Metrics, names: Sequence[str], title: str) -> Figure:
    """One panel per metric, one point per case: mean with its 95 % interval; the dashed line is the case none."""
    fig = Figure(figsize=(2.25 * len(names) + 1.2, 0.33 * len(metrics) + 1.4), layout="constrained")
    for ax, name in zip(np.atleast_1d(fig.subplots(1, len(names), sharey=True)), names, strict=True):
        rows = [(case, entries[name][key]) for case, entries in metrics.items() for key in ("lo", "mean", "hi")]
        frame = pd.DataFrame(rows, columns=["case", name]).astype({name: float})
        # of three numbers, the median is the mean of the metric and the range its interval
        style = {"estimator": "median", "errorbar": ("pi", 100), "linestyle": "none", "markersize": 5}
        sns.pointplot(frame, x=name, y="case", color=METHOD, ax=ax, err_kws={"linewidth": 2}, **style)
        ax.axvline(metrics["none"][name]["mean"], color=BASE, ls="--", lw=1)
        ax.set(ylabel="", xlabel=f"{name} {arrow(name)}")
    fig.suptitle(title, fontsize=10)
    return fig


def strength_plot(sweep: Metrics, metric: str, title: str) -> Figure:
    """Left: the metric over strength. Right: what it costs, the metric against kernel distance; numbers are strengths.

    sweep: strength -> metric -> entry, 0 is the baseline.
    """
    scales = sorted(sweep, key=float)
    at = [float(scale) for scale in scales]
    gain, far = (
        {key: np.array([sweep[scale][name][key] for scale in scales], float) for key in ("mean", "lo", "hi")}
        for name in (metric, "kernel_distance")
    )
    fig = Figure(figsize=(8, 3.1), layout="constrained")
    left, right = fig.subplots(1, 2, sharey=True)
    sns.lineplot(x=at, y=gain["mean"], marker="o", color=METHOD, ax=left)
    left.fill_between(at, gain["lo"], gain["hi"], color=METHOD, alpha=0.2, lw=0)
    xerr, yerr = ([found["mean"] - found["lo"], found["hi"] - found["mean"]] for found in (far, gain))
    right.errorbar(far["mean"], gain["mean"], xerr=xerr, yerr=yerr, fmt="o-", color=METHOD, ecolor="0.75", lw=1)
    for scale, x, y in zip(at, far["mean"], gain["mean"], strict=True):
        right.annotate(f"{scale:g}", (x, y), (5, 5), textcoords="offset points", fontsize=9)
    left.set(xlabel="strength", ylabel=f"{metric} ↑")
    right.set(xlabel="kernel distance ↓")
    fig.suptitle(title, fontsize=10)
    return fig


def curves_plot(curves: Mapping[str, Metrics], names: Mapping[str, str], title: str) -> Figure:
    """One panel per curve: its metric over the knob's values with 95 % intervals; dashed: unguided.

    curves: curve -> value -> metric -> entry, the value "none" is the baseline. names: curve -> metric.
    """
    columns = min(len(curves), 5)
    rows = -(-len(curves) // columns)
    fig = Figure(figsize=(2.9 * columns, 2.5 * rows + 0.4), layout="constrained")
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax, (curve, values) in zip(axes, curves.items(), strict=False):
        name = names[curve]
        at = [value for value in values if value != "none"]
        mean, lo, hi = ([values[value][name][key] for value in at] for key in ("mean", "lo", "hi"))
        x = [float(value) for value in at]
        ax.plot(x, mean, "o-", color=METHOD, ms=4)
        ax.fill_between(x, lo, hi, color=METHOD, alpha=0.2, lw=0)
        ax.axhline(values["none"][name]["mean"], color=BASE, ls="--", lw=1)
        ax.set_title(curve.replace("_", " "), fontsize=9)
        ax.set_ylabel(f"{name} {arrow(name)}", fontsize=8)
        ax.tick_params(labelsize=8)
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    fig.suptitle(title, fontsize=10)
    return fig


def tradeoff_plot(sweeps: Mapping[str, Metrics], names: Mapping[str, str], title: str) -> Figure:
    """What strength buys and costs: each module's metric against kernel distance (a Frechet distance would need more
    pictures than a judge's feature has numbers), points labelled by strength.

    sweeps: module -> factor of the tuned strength -> metric -> entry, "none" is the baseline.
    """
    fig = Figure(figsize=(3.6 * max(len(sweeps), 1), 3.1), layout="constrained")
    for ax, (module, sweep) in zip(np.atleast_1d(fig.subplots(1, max(len(sweeps), 1))), sweeps.items(), strict=False):
        name, order = names[module], sorted(sweep, key=lambda value: -1 if value == "none" else float(value))
        x, y = ([sweep[value][key]["mean"] for value in order] for key in ("kernel_distance", name))
        ax.plot(x, y, "o-", color=METHOD)
        for value, place in zip(order, zip(x, y, strict=True), strict=True):
            ax.annotate(value, place, (5, 4), textcoords="offset points", fontsize=8)
        ax.set(xlabel="kernel distance ↓", ylabel=f"{name} {arrow(name)}", title=module)
    fig.suptitle(title, fontsize=10)
    return fig


def ablation_table(
    metrics: Metrics, names: Sequence[str], title: str, against: Mapping[str, str] | None = None
) -> Figure:
    """Rows: cases; columns: metrics; a cell holds the mean and a paired difference with its interval.

    Blue cells are better than what they are compared with, orange ones worse, with an interval that excludes zero; grey
    ones say neither. against: metric -> key of the difference, "diff" if not stated.
    """
    keys = {name: (against or {}).get(name, "diff") for name in names}
    diffs = [[entries[name].get(keys[name], UNKNOWN) for name in names] for entries in metrics.values()]
    verdicts = [[_verdict(name, diff) for name, diff in zip(names, line, strict=True)] for line in diffs]
    means = [[entries[name]["mean"] for name in names] for entries in metrics.values()]
    texts = [[_cell(*cell) for cell in zip(*lines, strict=True)] for lines in zip(means, diffs, strict=True)]
    fig = Figure(figsize=(1.75 * len(names) + 2.2, 0.5 * len(metrics) + 0.9), layout="constrained")
    ax = fig.subplots()
    colors = ListedColormap(["#f6c9a0", "#f2f2f2", "#a9d3ee"])
    sns.heatmap(
        verdicts, vmin=-1, vmax=1, cmap=colors, annot=np.array(texts), fmt="", cbar=False, linewidths=2,
        annot_kws={"fontsize": 8.5, "color": "black"}, ax=ax,
    )  # fmt: skip
    ax.set_xticklabels([f"{name} {arrow(name)}" for name in names], fontsize=9)
    ax.set_yticklabels(list(metrics), rotation=0, fontsize=9)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    fig.suptitle(title, fontsize=10)
    return fig


def _verdict(name: str, diff: Mapping) -> int:
    """1 where the interval of a difference says better, -1 where it says worse, 0 where it includes zero."""
    if pd.isna(diff["mean"]) or name in NEITHER:
        return 0
    return (-1 if name in LESS_IS_BETTER else 1) * ((diff["lo"] > 0) - (diff["hi"] < 0))


def _cell(mean: float, diff: Mapping) -> str:
    if pd.isna(mean):  # such as the colours of objects that are never there
        return "-"
    digits = 3 if abs(mean) < 10 else 1 if abs(mean) < 1000 else 0
    if pd.isna(diff["mean"]):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f}\n{diff['mean']:+.{digits}f} [{diff['lo']:+.{digits}f}, {diff['hi']:+.{digits}f}]"


EYESIGHT = {  # model -> (metric, what it says)
    "guide_segmenter": ("mask_iou", "segmenter: mask IoU of a phrase"),
    "detector": ("ap50", "detector: AP at box IoU .5"),
    "clip": ("swapped_relation", "CLIP: true relation preferred to its opposite"),
    "sam": ("mask_iou", "SAM: mask IoU of one click"),
    "dino": ("pck", "DINOv2: point found again within 3 px"),
}


def perception_plot(curves: pd.DataFrame, title: str) -> Figure:
    """How well the guides see over the share of noise in the picture; RAFT's error has an axis of its own.

    curves: a line per noise (percent), model and metric with its value. Shaded: the noise levels of the first 70 % of
    the steps, where guidance acts.
    """
    fig = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(1.6, 1))
    for (model, (metric, label)), color in zip(EYESIGHT.items(), sns.color_palette()):
        own = curves[(curves.model == model) & (curves.metric == metric)]
        left.plot(own.noise, own.value, marker="o", color=color, label=label)
    own = curves[(curves.model == "raft") & (curves.metric == "epe_moving")]
    right.plot(own.noise, own.value, marker="o", color="0.25", label="RAFT: end-point error on moved objects, px")
    for ax in (left, right):
        ax.axvspan(30, 100, color=METHOD, alpha=0.08, lw=0)
        ax.set(xlabel="noise in the picture that is guessed from, %", xlim=(-2, 100), ylim=(0, None))
        ax.legend(fontsize=8)
    left.set_ylim(0, 1.02)
    fig.suptitle(f"{title}; shaded: the first 70 % of the steps, where guidance acts", fontsize=10)
    return fig
