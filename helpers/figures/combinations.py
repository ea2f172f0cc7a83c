"""Plots of modules that act together: whether they pull the same way, and what they cost."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from helpers.figures.style import BASE, Metrics
from helpers.sampling.trace import Trace


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
