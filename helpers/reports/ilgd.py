"""The experiment `ilgd` (ablations) in numbers and figures."""

import json
from pathlib import Path

import pandas as pd

from helpers import attention_figures, layout_figures
from helpers.params import Params, load
from helpers.paths import RESULTS
from helpers.reports.common import about, publish
from helpers.summary import plain
from helpers.trace import Trace

PLOTTED = ("box_iou", "recall", "contrast", "saturation", "kernel_distance")


def write(folder: Path, params: Params) -> dict:
    """Tables and pictures into `folder`; returns ablation -> point -> metric -> entry."""
    metrics = {name: json.loads((RESULTS / "ilgd" / name / "points.json").read_text()) for name in params.ilgd.run}
    rows = [
        {"ablation": ablation, "point": point, "metric": name, **{key: entry[key] for key in ("mean", "lo", "hi", "n")}}
        | {f"diff_{key}": bound for key, bound in entry["diff"].items()}
        for ablation, points in plain(metrics).items()
        for point, entries in points.items()
        for name, entry in entries.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "ilgd.csv", index=False)
    title = about(params)
    trace = Trace.load(RESULTS / "layout" / "sample" / "ilgd" / "trace")
    pictures = {
        "ilgd": layout_figures.points_plot(metrics, PLOTTED, title),
        "ilgd_overlap": attention_figures.overlap_plot(trace, title),
    }
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=110)
    return metrics


if __name__ == "__main__":
    publish("ilgd", lambda folder: write(folder, load()))
