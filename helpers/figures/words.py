"""Metrics and directions in words."""

from collections.abc import Mapping
from typing import Literal

METRICS = {
    "box_iou": "box IoU",
    "mask_iou": "mask IoU",
    "box_ap50": "precision of boxes (AP50)",
    "recall": "share of objects found",
    "color_acc": "share of right colours",
    "attribute_acc": "share of right attributes",
    "relation_acc": "share of right relations",
    "extra_objects": "share of pictures with extras",
    "size_error": "error of size",
    "distance_error": "error of distance",
    "clip_score": "CLIP score",
    "clip_iqa": "CLIP-IQA",
    "kernel_distance": "kernel distance",
    "contrast": "contrast",
    "saturation": "saturation",
    "drag_md": "handle to target, px",
    "center_dist": "object to target, px",
    "drag_recall": "share of dragged objects found",
    "edit_fidelity": "likeness to the true edit",
    "image_fidelity": "likeness to the source",
    "background_psnr": "background kept, dB",
    "nfe": "denoiser evaluations per image",
    "seconds": "seconds per image",
}
LESS_IS_BETTER = {
    "kernel_distance", "frechet", "extra_objects", "size_error", "distance_error", "drag_md", "center_dist", "nfe",
    "seconds",
}  # fmt: skip
NEITHER = {"contrast", "saturation"}  # far from the baseline's is bad, in either direction
ARROWS = {"x": "←→", "y": "↓↑"}  # less, more
INTERVALS = "95 % bootstrap intervals over prompts"
DISTANCE = "Kernel distance to real scenes: an unbiased estimate, about 0 (also below) where no difference is seen"


def metric(name: str) -> str:
    """What a metric is called."""
    return METRICS.get(name, name.replace("_", " "))


def axis(name: str, along: Literal["x", "y"] = "x") -> str:
    """A metric's name with the direction that is better."""
    return metric(name) if name in NEITHER else f"{metric(name)}\n{ARROWS[along][name not in LESS_IS_BETTER]} better"


def called(names: Mapping[str, str], case: str) -> str:
    """What a case is called; those that users add by their ids."""
    return names.get(case, case.replace("_", " "))
