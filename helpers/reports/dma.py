"""The experiment `dma` in numbers and figures."""

from pathlib import Path

import pandas as pd

from helpers.benchmarks.miniature_drags import load_drags
from helpers.benchmarks.miniature_edits import edited
from helpers.experiments.dma import Experiment
from helpers.figures.grids import drag_grid
from helpers.figures.plots import cases_plot
from helpers.figures.strips import flow_strip
from helpers.figures.table import ablation_table
from helpers.params import Params, load
from helpers.pipeline.score import Scored, whole
from helpers.pipeline.summary import plain
from helpers.reports.common import experiment_metrics, publish, real, rows_of, scores, showcase, table

PLOTTED = ("drag_md", "center_dist", "drag_recall", "edit_fidelity", "background_psnr", "kernel_distance")
TABLED = ("drag_md", "center_dist", "drag_recall", "edit_fidelity", "image_fidelity", "background_psnr")
SHOWN = ("none", "displacement", "displacement_appearance", "displacement_semantic", "full")


def by_form(params: Params, scored: dict[str, Scored]) -> pd.DataFrame:
    """Means per case and form of the drag: one handle, two, two objects, partly outside, a drawn source."""
    forms = {drag.id: drag.form for source in ("rendered", "drawn") for drag in load_drags("test", source)}
    rows = [{"case": case, "form": forms[row["id"]], **row} for case, found in scored.items() for row in found.rows]
    return pd.DataFrame(rows).groupby(["case", "form"], sort=False)[list(TABLED)].mean().reset_index()


def write(folder: Path, params: Params, reference) -> dict:
    """Tables and pictures into `folder`; returns the metrics."""
    folders = rows_of("dma", params.experiment.cases)
    scored = scores(folders)
    chosen = {case: params.case(case) for case in scored}
    drags = {case: load_drags("test", c.source) for case, c in chosen.items()}
    ours = {case: "displacement" if c.source == "rendered" else c.baseline for case, c in chosen.items()}
    baselines = {"diff": {case: c.baseline for case, c in chosen.items()}, "diff_displacement": ours}
    metrics = experiment_metrics(scored, drags, baselines, reference)
    table(plain(metrics), list(baselines)).to_csv(folder / "dma.csv", index=False)
    by_form(params, scored).round(4).to_csv(folder / "dma_by_form.csv", index=False)
    traces = {case: showcase(folders[case]) for case in SHOWN if case in scored}
    edits = [edited(drag) for drag in drags["none"][: len(traces["none"].records)]]
    title = f"{params.sampling.backbone}, {params.profile.steps} DDIM steps, no CFG"
    pictures = {
        "dma_cases": drag_grid(traces, edits, {case: scored[case].rows for case in traces}, title),
        "dma_steps": flow_strip(traces["none"], traces["full"], ("none", "full"), title, whole(traces["none"])),
        "dma_metrics": cases_plot(metrics, PLOTTED, title),
        "dma_table": ablation_table(metrics, TABLED, title),
    }
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=110)
    return metrics


if __name__ == "__main__":
    publish("dma", lambda folder: write(folder, load(Experiment), real()))
