"""What the models that guide see in unfinished pictures, as a figure."""

import json
from pathlib import Path

import pandas as pd

from helpers.figures.perception import perception_plot
from helpers.figures.style import save
from helpers.paths import RESULTS


def write(folder: Path) -> dict[str, float]:
    """Table and picture into `folder`; returns the detector's numbers: ap50 on renders, ap50_x0 from half the noise."""
    curves = json.loads((RESULTS / "perception" / "curves.json").read_text())
    rows = [
        {"noise": int(percent), "model": model, "metric": metric, "value": value}
        for percent, models in curves.items()
        for model, found in models.items()
        for metric, value in found.items()
    ]
    frame = pd.DataFrame(rows)
    frame.round(4).to_csv(folder / "perception.csv", index=False)
    save({"perception": perception_plot(frame, "mini-sd's one-step guesses of held-out scenes")}, folder)
    return {"ap50": curves["0"]["detector"]["ap50"], "ap50_x0": curves["50"]["detector"]["ap50"]}
