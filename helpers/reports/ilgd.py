"""The experiment `ilgd` (ablations) in numbers and figures."""

import json
from pathlib import Path

import pandas as pd

from helpers.experiments.ilgd import Experiment
from helpers.figures.attention import overlap_plot
from helpers.figures.layout import points_plot
from helpers.params import Params, load
from helpers.paths import RESULTS
from helpers.pipeline.score import whole
from helpers.pipeline.summary import plain
from helpers.reports.common import about, publish, rows_of, showcase

PLOTTED = ("box_iou", "recall", "contrast", "saturation", "kernel_distance")


def write(folder: Path, params: Params) -> dict:
    """Tables and pictures into `folder`; returns ablation -> point -> metric -> entry."""
    folders = rows_of("ilgd", params.experiment.cases)
    metrics = {name: json.loads((folder / "points.json").read_text()) for name, folder in folders.items()}
    rows = [
        {"ablation": ablation, "point": point, "metric": name, **{key: entry[key] for key in ("mean", "lo", "hi", "n")}}
        | {f"diff_{key}": bound for key, bound in entry["diff"].items()}
        for ablation, points in plain(metrics).items()
        for point, entries in points.items()
        for name, entry in entries.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "ilgd.csv", index=False)
    title = about(params)
    trace = showcase(RESULTS / "layout" / "score" / "ilgd")
    pictures = {
        "ilgd": points_plot(metrics, PLOTTED, title),
        "ilgd_overlap": overlap_plot(trace, title, whole(trace)),
    }
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=110)
    return metrics


if __name__ == "__main__":
    publish("ilgd", lambda folder: write(folder, load(Experiment)))
