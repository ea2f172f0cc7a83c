"""The experiment `robustness` in numbers and figures."""

import json
from pathlib import Path

import pandas as pd

from helpers.experiments.robustness import Experiment
from helpers.figures.plots import curves_plot, tradeoff_plot
from helpers.params import Params, load
from helpers.pipeline.summary import plain
from helpers.reports.common import about, publish, rows_of

METRIC = {"layout": "box_iou", "text": "relation_acc", "drag": "drag_md"}  # what a module is for


def write(folder: Path, params: Params) -> dict:
    """Tables and pictures into `folder`; returns curve -> value ("none" is unguided) -> metric -> entry."""
    folders = rows_of("robustness", params.experiment.cases)
    metrics = {curve: json.loads((folder / "curve.json").read_text()) for curve, folder in folders.items()}
    modules = {curve: params.case(curve).module for curve in metrics}
    rows = [
        {"curve": curve, "module": modules[curve], "value": value, "metric": name}
        | {key: entry[key] for key in ("mean", "lo", "hi", "n")}
        | {f"diff_{key}": bound for key, bound in entry["diff"].items()}
        for curve, values in plain(metrics).items()
        for value, entries in values.items()
        for name, entry in entries.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "robustness.csv", index=False)
    title = about(params) + " (drags without CFG)"
    pictures = {
        "robustness": curves_plot(metrics, {curve: METRIC[m] for curve, m in modules.items()}, title),
        "robustness_strength": tradeoff_plot(
            {m: metrics[f"strength_{m}"] for m in METRIC if f"strength_{m}" in metrics}, METRIC, title
        ),
    }
    for key, picture in pictures.items():
        picture.savefig(folder / f"{key}.png", dpi=110)
    return metrics


if __name__ == "__main__":
    publish("robustness", lambda folder: write(folder, load(Experiment)))
