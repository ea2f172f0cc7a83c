"""The experiment `ilgd` (ablations) in numbers and figures."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from helpers.experiments.ilgd import Experiment
from helpers.figures.attention import overlap_plot
from helpers.figures.dots import dots_plot
from helpers.figures.style import Metrics, save
from helpers.figures.words import DISTANCE
from helpers.params import Params, load
from helpers.paths import RESULTS
from helpers.pipeline.score import whole
from helpers.pipeline.summary import plain
from helpers.reports.common import about, publish, rows_of, showcase

PLOTTED = ("box_iou", "recall", "saturation", "kernel_distance")
HEADINGS = {  # ablation -> what it varies, and how a point is called
    "injection": ("Injection ν, without a loss", "ν = {}"),
    "loss_strength": ("Strength η of the loss", "η = {}"),
    "windows": ("Steps of injection; of the loss", "{}–{}; {}–{} %"),
    "losses": ("Losses, gradients of one size", "{}"),
    "strength_rule": ("σ as it is or exploding; η", "σ {}; η = {}"),
    "many": ("Five and six objects", "{1}, 5 or 6 objects"),
    "masks": ("What is asked for", "{}"),
    "sizes": ("Height × width of pictures", "{0} × {1}: {2}"),
}
CASES = {"none": "unguided", "ilgd": "iLGD", "dga": "DGA", "ilgd_dga": "iLGD with DGA"}


def rows(metrics: Mapping[str, Metrics]) -> dict[str, Mapping]:
    """What the plot's rows are: a heading for every ablation, then its points in words."""
    found = {}
    for ablation, points in metrics.items():
        heading, form = HEADINGS.get(ablation, (ablation.replace("_", " ").capitalize(), None))
        found[heading] = {}
        for label, entries in points.items():
            parts = [CASES.get(part, part.replace("_", " ")) for part in label.replace(",", "").split(" ")]
            if ablation == "windows":
                parts = [f"{100 * float(part):.0f}" for part in parts]
            found[form.format(*parts) if form else f"{heading}: {label}"] = entries
    return found


def write(folder: Path, params: Params) -> dict:
    """Tables and pictures into `folder`; returns ablation -> point -> metric -> entry."""
    folders = rows_of("ilgd", params.experiment.cases)
    metrics = {name: json.loads((folder / "points.json").read_text()) for name, folder in folders.items()}
    lines = [
        {"ablation": ablation, "point": point, "metric": name, **{key: entry[key] for key in ("mean", "lo", "hi", "n")}}
        | {f"diff_{key}": bound for key, bound in entry["diff"].items()}
        for ablation, points in plain(metrics).items()
        for point, entries in points.items()
        for name, entry in entries.items()
    ]
    pd.DataFrame(lines).to_csv(folder / "ilgd.csv", index=False)
    known = about(params)
    trace = showcase(RESULTS / "layout" / "score" / "ilgd")
    message = "What each setting of iLGD does to placement and to the looks of pictures"
    pictures = {
        "ilgd": dots_plot({"": rows(metrics)}, PLOTTED, message, f"{known}. {DISTANCE}", columns=4),
        "ilgd_overlap": overlap_plot(trace, known, whole(trace)),
    }
    save(pictures, folder)
    return metrics


if __name__ == "__main__":
    publish("ilgd", lambda folder: write(folder, load(Experiment)))
