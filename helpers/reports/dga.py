"""The experiment `dga` in numbers and figures."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from helpers.benchmarks.miniature import Case, load_captioned
from helpers.experiments.dga import Experiment
from helpers.figures.dots import dots_plot
from helpers.figures.grids import case_grid
from helpers.figures.plots import strength_plot
from helpers.figures.strips import steps_strip
from helpers.figures.style import BASE, save
from helpers.figures.words import DISTANCE, called
from helpers.params import Params, load
from helpers.paths import RESULTS
from helpers.pipeline.score import Scored, whole
from helpers.pipeline.summary import plain
from helpers.reports.common import about, experiment_metrics, publish, real, rows_of, scores, showcase, strengths, table
from helpers.sampling.trace import Trace

DGA = RESULTS / "dga"
BASELINES = {"diff": "none", "diff_coverage": "coverage"}  # the second: what the further terms add to coverage
PLOTTED = ("box_iou", "mask_iou", "recall", "color_acc", "extra_objects", "kernel_distance")
COMPARED = ("box_iou", "mask_iou", "box_ap50", "recall", "size_error", "distance_error")
NAMES = {
    "none": "unguided",
    "coverage": "DGA, coverage only",
    "coverage_size": "DGA, coverage and size",
    "coverage_distance": "DGA, coverage and distance",
    "full": "DGA, all terms",
    "full_masks": "DGA, silhouettes",
    "window_30": "DGA, first 30 % of steps",
    "window_50": "DGA, first 50 % of steps",
    "window_100": "DGA, in all steps",
}


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
    """All pictures of the report."""
    known = about(params)
    named = {called(NAMES, case): found for case, found in metrics.items()}
    guided = {case: found for case, found in named.items() if case != called(NAMES, "none")}
    ious = {case: found["box_iou"]["mean"] for case, found in metrics.items()}
    raised = f"box IoU {ious['none']:.2f} unguided, {ious['full']:.2f} with DGA"
    tried = {scale: found["box_iou"]["mean"] for scale, found in sweep.items()}
    best = max(tried, key=tried.get)
    pictures = {
        "dga_cases": case_grid(
            {called(NAMES, case): trace for case, trace in traces.items()},
            {called(NAMES, case): scored[case].rows for case in traces},
            "The same noise, unguided and with dense geometry alignment (DGA)",
            f"{known}; first test prompt of every number of objects. All terms: coverage, size and distance of boxes. "
            "Dashes: what was asked for",
        ),
        "dga_steps": steps_strip(
            traces["none"], traces["full"], ("unguided", "DGA"), known, whole(traces["none"])
        ),
        "dga_metrics": dots_plot(
            {"": named}, PLOTTED, f"DGA and its parts: {raised}", f"{known}. {DISTANCE}", colors={"unguided": BASE}
        ),
        "dga_table": dots_plot(
            {"": guided}, COMPARED, "What DGA and its parts change",
            f"{known}; paired differences to unguided, on the same prompts and noise", "diff",
        ),
        "dga_strength": strength_plot(
            sweep, "box_iou", f"Of the strengths tried, {float(best):g} has the largest box IoU ({tried[best]:.2f})",
            f"{known}; dev split",
        ),
    }  # fmt: skip
    save(pictures, folder)


if __name__ == "__main__":
    publish("dga", lambda folder: write(folder, load(Experiment), real()))
