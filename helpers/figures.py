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

from helpers import overlay
from helpers.trace import Record, Trace

Metrics = Mapping[str, Mapping[str, Mapping]]  # case -> metric -> {"mean", "lo", "hi", "n", "diff"}
TERMS = ("coverage", "size", "distance")
BASE, METHOD = "#7a7a7a", "#0072b2"
LESS_IS_BETTER = {"kernel_distance", "frechet", "extra_objects", "size_error", "distance_error", "nfe", "seconds"}


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


def window_of(trace: Trace) -> tuple[float, float]:
    """First guided step and the one after the last, as the steps' places on an axis (half a step to either side)."""
    window = trace.settings.get("dga", {}).get("window", {"start": 0, "stop": 0})
    steps = len(trace.timesteps)
    first, last = (int(np.ceil(window[key] * steps - 1e-6)) for key in ("start", "stop"))
    return first - 0.5, last - 0.5


def case_grid(traces: Mapping[str, Trace], scores: Mapping[str, Sequence[Mapping]], title: str) -> Figure:
    """Rows: the showcase prompts; columns: the wanted layout, then the cases in the order of `traces` (baseline first).

    scores: case -> the judge's numbers, a row for each image of the run. title: model, steps. Dashes are what the case
    was asked for (the baseline was not told).
    """
    first = next(iter(traces.values())).records
    fig = Figure(figsize=(1.75 * (len(traces) + 1) + 0.4, 2.12 * len(first) + 0.5), layout="constrained")
    grid = fig.subplots(len(first), len(traces) + 1, squeeze=False)
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
    for ax, name in zip(grid[0], ("wanted", *traces), strict=True):
        ax.set_title(name, fontsize=11)
    fig.suptitle(title, fontsize=10)
    return fig


def prompt_grid(traces: Mapping[str, Trace], scores: Mapping[str, Sequence[Mapping]], title: str) -> Figure:
    """Rows: the showcase prompts; columns: the cases in the order of `traces` (baseline first).

    scores: case -> the judge's numbers, a row for each image of the run; "-" is a prompt without relations.
    """
    first = next(iter(traces.values())).records
    fig = Figure(figsize=(1.75 * len(traces) + 2.6, 2.05 * len(first) + 0.5), layout="constrained")
    grid = fig.subplots(len(first), len(traces) + 1, squeeze=False, width_ratios=[1.3, *[1] * len(traces)])
    for row, axes in enumerate(grid):
        record = first[row]
        axes[0].text(0, 0.5, fill(f"{record.prompt} (seed {record.seed})", 26), fontsize=8.5, va="center")
        axes[0].set_axis_off()
        for ax, (case, trace) in zip(axes[1:], traces.items(), strict=True):
            _show(ax, overlay.enlarge(trace.records[row].final))
            found = scores[case][trace.records[row].index]
            shares = ["-" if np.isnan(found[key]) else f"{found[key]:.2f}" for key in ("attribute_acc", "relation_acc")]
            ax.set_xlabel(f"attributes {shares[0]}, relations {shares[1]}", fontsize=7.5)
    for ax, name in zip(grid[0, 1:], traces, strict=True):
        ax.set_title(name, fontsize=11)
    fig.suptitle(title, fontsize=10)
    return fig


def objects_plot(images: pd.DataFrame, names: Sequence[str], title: str) -> Figure:
    """One panel per metric: means over the number of objects with 95 % intervals, by guidance and caption.

    images: a line per image with "guidance" (none or full), "caption", "objects" and the metrics.
    """
    fig = Figure(figsize=(3.3 * len(names) + 1.4, 3.2), layout="constrained")
    axes = fig.subplots(1, len(names), sharey=True)
    style = {"x": "objects", "hue": "guidance", "style": "caption", "hue_order": ["none", "full"]}
    palette = {"none": BASE, "full": METHOD}
    for ax, name in zip(axes, names, strict=True):
        sns.lineplot(images, y=name, ax=ax, palette=palette, markers=True, err_style="bars", seed=0, **style)
        ax.set(title=name, ylabel="", xlabel="objects in the prompt", ylim=(0, 1.05))
        ax.get_legend().remove()
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
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
    _curves(below, baseline, method, names, image)
    record = method.records[image]
    fig.suptitle(f"{title}\n“{record.prompt}”, seed {record.seed}, {steps} steps", fontsize=10)
    return fig


def _curves(fig, baseline: Trace, method: Trace, names: tuple[str, str], image: int) -> None:
    """The losses and the gradient of two records, one panel each."""
    axes = fig.subplots(1, 4)
    at = np.arange(1, len(method.timesteps) + 1)
    first, last = window_of(method)
    for ax, term in zip(axes, (*TERMS, "gradient"), strict=True):
        key = f"dga.{term}" if term in TERMS else "grad_rms"
        for trace, name, color in zip((baseline, method), names, (BASE, METHOD), strict=True):
            curve = trace.records[image].curves.get(key)  # a run without guidance has no gradient
            if curve is not None:
                ax.plot(at, curve, color=color, label=name)
        ax.axvspan(first + 1, last + 1, color=METHOD, alpha=0.1, lw=0)
        ax.set_title(f"loss: {term}" if term in TERMS else "rms of the gradient", fontsize=9)
        ax.set_xlabel("step", fontsize=9)
        ax.set_xlim(0.5, len(at) + 0.5)
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
        ax.set(ylabel="", xlabel=f"{name} {'↓' if name in LESS_IS_BETTER else '↑'}")
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


def ablation_table(metrics: Metrics, names: Sequence[str], title: str) -> Figure:
    """Rows: cases; columns: metrics; a cell holds the mean and the paired difference to none with its interval.

    Blue cells are better than none, orange ones worse, with an interval that excludes zero; grey ones say neither.
    """
    verdicts = [[_verdict(name, entries[name]["diff"]) for name in names] for entries in metrics.values()]
    texts = [[_cell(entries[name]) for name in names] for entries in metrics.values()]
    fig = Figure(figsize=(1.75 * len(names) + 1.8, 0.5 * len(metrics) + 0.9), layout="constrained")
    ax = fig.subplots()
    colors = ListedColormap(["#f6c9a0", "#f2f2f2", "#a9d3ee"])
    sns.heatmap(
        verdicts, vmin=-1, vmax=1, cmap=colors, annot=np.array(texts), fmt="", cbar=False, linewidths=2,
        annot_kws={"fontsize": 8.5, "color": "black"}, ax=ax,
    )  # fmt: skip
    ax.set_xticklabels([f"{name} {'↓' if name in LESS_IS_BETTER else '↑'}" for name in names], fontsize=9)
    ax.set_yticklabels(list(metrics), rotation=0, fontsize=9)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    fig.suptitle(title, fontsize=10)
    return fig


def _verdict(name: str, diff: Mapping) -> int:
    """1 where the interval of a difference says better, -1 where it says worse, 0 where it includes zero."""
    if pd.isna(diff["mean"]):
        return 0
    return (-1 if name in LESS_IS_BETTER else 1) * ((diff["lo"] > 0) - (diff["hi"] < 0))


def _cell(entry: Mapping) -> str:
    diff = entry["diff"]
    if pd.isna(entry["mean"]) or pd.isna(diff["mean"]):  # such as the colours of objects that are never there
        return "-"
    return f"{entry['mean']:.3f}\n{diff['mean']:+.3f} [{diff['lo']:+.3f}, {diff['hi']:+.3f}]"


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
