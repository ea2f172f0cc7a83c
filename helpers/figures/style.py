"""How all figures look, and which way a metric is better."""

from collections.abc import Mapping

import seaborn as sns

Metrics = Mapping[str, Mapping[str, Mapping]]  # case -> metric -> {"mean", "lo", "hi", "n", "diff"}
BASE, METHOD, OTHER = "#7a7a7a", "#0072b2", "#d55e00"  # the baseline, the method, what is told apart from both
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
