"""The experiment `dga` in numbers and figures."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from helpers import figures
from helpers.miniature.benchmark import Case, load_captioned
from helpers.params import Params, load
from helpers.paths import RESULTS
from helpers.reports.common import about, experiment_metrics, publish, real, strengths, table
from helpers.score import Scored, load_score
from helpers.summary import plain
from helpers.trace import Trace

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
    scored = {case: load_score(DGA / "score" / case) for case in params.dga.run}
    baselines = {key: dict.fromkeys(scored, case) for key, case in BASELINES.items()}
    metrics = experiment_metrics(scored, dict.fromkeys(scored, scenes), baselines, reference)
    sweep = json.loads((DGA / "sweep" / "strength.json").read_text())
    table(plain(metrics), list(BASELINES)).to_csv(folder / "dga.csv", index=False)
    by_objects(scored, scenes).round(4).to_csv(folder / "dga_by_objects.csv", index=False)
    strengths(sweep).to_csv(folder / "dga_strength.csv", index=False)
    draw(folder, params, metrics, sweep, scored)
    return metrics


def draw(folder: Path, params: Params, metrics: dict, sweep: dict, scored: dict[str, Scored]) -> None:
    headline = [case for case in scored if params.dga.case(case).images == "headline"]
    traces = {case: Trace.load(DGA / "sample" / case / "trace") for case in headline}
    rows = {case: scored[case].rows for case in headline}
    title = about(params)
    pictures = {
        "dga_cases": figures.case_grid(traces, rows, title),
        "dga_steps": figures.steps_strip(traces["none"], traces["full"], ("none", "full"), title),
        "dga_metrics": figures.cases_plot(metrics, PLOTTED, title),
        "dga_table": figures.ablation_table(metrics, TABLED, title),
        "dga_strength": figures.strength_plot(sweep, "box_iou", title + ", dev split"),
    }
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=110)


if __name__ == "__main__":
    publish("dga", lambda folder: write(folder, load(), real()))
