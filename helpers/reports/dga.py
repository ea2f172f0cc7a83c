"""The experiment `dga` in numbers and figures."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from helpers.benchmarks.miniature import Case, load_captioned
from helpers.experiments.dga import Experiment
from helpers.figures.grids import case_grid
from helpers.figures.plots import cases_plot, strength_plot
from helpers.figures.strips import steps_strip
from helpers.figures.table import ablation_table
from helpers.params import Params, load
from helpers.paths import RESULTS
from helpers.pipeline.score import Scored, whole
from helpers.pipeline.summary import plain
from helpers.reports.common import about, experiment_metrics, publish, real, rows_of, scores, showcase, strengths, table
from helpers.sampling.trace import Trace

DGA = RESULTS / "dga"
BASELINES = {"diff": "none", "diff_coverage": "coverage"}  # the second: what the further terms add to coverage
PLOTTED = ("box_iou", "mask_iou", "recall", "color_acc", "background_acc", "kernel_distance")
TABLED = ("box_iou", "mask_iou", "box_ap50", "recall", "color_acc", "size_error", "distance_error", "kernel_distance")


def by_objects(scored: dict[str, Scored], scenes: Sequence[Case]) -> pd.DataFrame:
    """Means per case, number of objects and whether mini-sd has seen every colour-object pair of the prompt."""
    known = {scene.id: {"objects": len(scene.things), "seen": scene.seen} for scene in scenes}
    rows = [{"case": case, **known[row["id"]], **row} for case, found in scored.items() for row in found.rows]
    kept = ["mask_iou", "box_iou", "recall", "color_acc", "background_acc", "extra_objects"]
    return pd.DataFrame(rows).groupby(["case", "objects", "seen"], sort=False)[kept].mean().reset_index()


def write(folder: Path, params: Params, reference) -> dict:
    """Tables and pictures into `folder`; returns the metrics."""
    scenes = load_captioned("test", "short")
    folders = rows_of("dga", params.experiment.cases)
    scored = scores(folders)
    baselines = {key: dict.fromkeys(scored, case) for key, case in BASELINES.items()}
    metrics = experiment_metrics(scored, dict.fromkeys(scored, scenes), baselines, reference)
    sweep = json.loads((DGA / "sweep" / "strength.json").read_text())
    table(plain(metrics), list(BASELINES)).to_csv(folder / "dga.csv", index=False)
    by_objects(scored, scenes).round(4).to_csv(folder / "dga_by_objects.csv", index=False)
    strengths(sweep).to_csv(folder / "dga_strength.csv", index=False)
    traces = {case: showcase(folders[case]) for case, c in params.experiment.cases.items() if c.images == "headline"}
    draw(folder, params, metrics, sweep, scored, traces)
    return metrics


def draw(folder: Path, params: Params, metrics: dict, sweep: dict, scored: dict, traces: dict[str, Trace]) -> None:
    rows = {case: scored[case].rows for case in traces}
    title = about(params)
    pictures = {
        "dga_cases": case_grid(traces, rows, title),
        "dga_steps": steps_strip(traces["none"], traces["full"], ("none", "full"), title, whole(traces["none"])),
        "dga_metrics": cases_plot(metrics, PLOTTED, title),
        "dga_table": ablation_table(metrics, TABLED, title),
        "dga_strength": strength_plot(sweep, "box_iou", title + ", dev split"),
    }
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=110)


if __name__ == "__main__":
    publish("dga", lambda folder: write(folder, load(Experiment), real()))
