"""How well guides see in unfinished pictures."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from helpers.figures.style import METHOD, SMALL, WIDTH, titled

MODELS = {  # model -> (metric, what it says)
    "guide_segmenter": ("mask_iou", "segmenter: mask IoU of a phrase"),
    "detector": ("ap50", "detector: AP at box IoU .5"),
    "clip": ("swapped_relation", "CLIP: true relation preferred to its opposite"),
    "sam": ("mask_iou", "SAM: mask IoU of one click"),
    "dino": ("pck", "DINOv2: point found again within 3 px"),
}


def perception_plot(curves: pd.DataFrame, note: str) -> Figure:
    """How well the guides see over the share of noise in the picture; RAFT's error has an axis of its own.

    curves: a line per noise (percent), model and metric with its value. Shaded: the noise levels of the first 70 % of
    the steps, where guidance acts.
    """
    fig = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    left, right = fig.subplots(1, 2)
    for (model, (metric, label)), color in zip(MODELS.items(), sns.color_palette("colorblind")):
        own = curves[(curves.model == model) & (curves.metric == metric)]
        left.plot(own.noise, own.value, marker="o", ms=4, color=color, label=label)
    own = curves[(curves.model == "raft") & (curves.metric == "epe_moving")]
    right.plot(own.noise, own.value, marker="o", ms=4, color="0.25", label="RAFT: error of moved objects' ends")
    for ax in (left, right):
        ax.axvspan(30, 100, color=METHOD, alpha=0.08, lw=0)
        ax.set(xlabel="noise in the picture that is guessed from, %", xlim=(-2, 100), ylim=(0, None))
        ax.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    left.set(ylim=(0, 1.02), ylabel="share that is right\n↑ better")
    right.set_ylabel("px\n↓ better")
    message = "What the guides see in the denoiser's guesses, from finished pictures to noise"
    return titled(fig, message, f"{note}. Shaded: the noise of the first 70 % of the steps, where guidance acts.")
