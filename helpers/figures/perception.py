"""How well guides see in unfinished pictures."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from helpers.figures.style import METHOD

MODELS = {  # model -> (metric, what it says)
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
    for (model, (metric, label)), color in zip(MODELS.items(), sns.color_palette()):
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
