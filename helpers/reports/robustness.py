"""The experiment `robustness` in numbers and figures."""

import json
from pathlib import Path

import pandas as pd

from helpers.experiments.robustness import Curve, Experiment
from helpers.figures.plots import curves_plot, tradeoff_plot
from helpers.figures.style import save
from helpers.params import Params, load
from helpers.pipeline.summary import plain
from helpers.reports.common import about, publish, rows_of

METRIC = {"layout": "box_iou", "text": "relation_acc", "drag": "drag_md"}  # what a module is for

MODULES = {"layout": "Layout (DGA)", "text": "Prompt (DCA)", "drag": "Drag (DMA)"}
KNOBS = {  # knob -> title, what is on the axis; of a guide's error by module
    "guide.layout": ("errors of the segmenter", "noise, logits"),
    "guide.text": ("errors of the detector", "noise, px"),
    "guide.drag": ("errors of the flow", "noise, px"),
    "mask": ("errors of masks", "grown by, px"),
    "layout_noise": ("shifted boxes", "shift, share of a side"),
    "layout_missing": ("missing boxes", "probability"),
    "window": ("guided steps", "share of the steps"),
    "strength": ("strength", "times the tuned one"),
    "seed": ("other noise", "seed"),
}


def knob(curve: Curve) -> tuple[str, str]:
    """Title and axis of a curve."""
    title, along = KNOBS[f"{curve.knob}.{curve.module}" if curve.knob == "guide" else curve.knob]
    return f"{MODULES[curve.module]}:\n{title}", along


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
    grouped = sorted(metrics, key=lambda curve: list(METRIC).index(modules[curve]))
    known = about(params) + " (drags without CFG)"
    strengths = {m: metrics[f"strength_{m}"] for m in METRIC if f"strength_{m}" in metrics}
    pictures = {
        "robustness": curves_plot(
            {curve: metrics[curve] for curve in grouped},
            {curve: METRIC[m] for curve, m in modules.items()},
            {curve: knob(params.case(curve)) for curve in metrics},
            "One knob of one module turned, everything else as in its experiment",
            known,
        ),
        "robustness_strength": tradeoff_plot(
            strengths, METRIC, MODULES, "What more strength buys and costs; numbers are times the tuned one", known
        ),
    }
    save(pictures, folder)
    return metrics


if __name__ == "__main__":
    publish("robustness", lambda folder: write(folder, load(Experiment)))
