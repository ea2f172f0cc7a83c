"""The experiment `dma` in numbers and figures."""

from pathlib import Path

import pandas as pd

from helpers.benchmarks.miniature_drags import load_drags
from helpers.benchmarks.miniature_edits import edited
from helpers.experiments.dma import Experiment
from helpers.figures.dots import dots_plot
from helpers.figures.grids import drag_grid
from helpers.figures.strips import flow_strip
from helpers.figures.style import BASE, save
from helpers.figures.words import DISTANCE, called
from helpers.params import Params, load
from helpers.pipeline.score import Scored, whole
from helpers.pipeline.summary import plain
from helpers.reports.common import experiment_metrics, publish, real, rows_of, scores, showcase, table
from helpers.sampling.trace import Trace

PLOTTED = ("drag_md", "center_dist", "drag_recall", "edit_fidelity", "background_psnr", "kernel_distance")
COMPARED = ("drag_md", "center_dist", "drag_recall", "edit_fidelity", "image_fidelity", "background_psnr")
SHOWN = ("none", "displacement", "displacement_appearance", "displacement_semantic", "full")
NAMES = {
    "none": "inversion alone",
    "full": "DMA, all losses",
    "displacement": "DMA, displacement only",
    "displacement_appearance": "DMA, without semantic",
    "displacement_semantic": "DMA, without appearance",
    "mask_eroded": "masks eroded by 2 px",
    "mask_shifted": "masks shifted by 3 px",
    "flow_error": "flow with 4 px of error",
    "none_drawn": "drawn sources: inversion",
    "full_drawn": "drawn sources: DMA",
}


def by_form(params: Params, scored: dict[str, Scored]) -> pd.DataFrame:
    """Means per case and form of the drag: one handle, two, two objects, partly outside, a drawn source."""
    forms = {drag.id: drag.form for source in ("rendered", "drawn") for drag in load_drags("test", source)}
    rows = [{"case": case, "form": forms[row["id"]], **row} for case, found in scored.items() for row in found.rows]
    return pd.DataFrame(rows).groupby(["case", "form"], sort=False)[list(COMPARED)].mean().reset_index()


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
    draw(folder, params, metrics, scored, {case: showcase(folders[case]) for case in SHOWN if case in scored})
    return metrics


def draw(folder: Path, params: Params, metrics: dict, scored: dict[str, Scored], traces: dict[str, Trace]) -> None:
    """All pictures of the report."""
    edits = [edited(drag) for drag in load_drags("test")[: len(traces["none"].records)]]
    known = f"{params.sampling.backbone}, {params.profile.steps} DDIM steps, no CFG"
    named = {called(NAMES, case): found for case, found in metrics.items()}
    unguided = {called(NAMES, params.case(case).baseline) for case in metrics}
    off = {case: metrics[case]["drag_md"]["mean"] for case in ("none", "full")}
    pictures = {
        "dma_cases": drag_grid(
            {called(NAMES, case): trace for case, trace in traces.items()},
            edits,
            {called(NAMES, case): scored[case].rows for case in traces},
            "The same inverted source, alone and with dense motion alignment (DMA)",
            f"{known}; the first test drags. Likeness to the true edit; how far the handle ends from its target",
        ),
        "dma_steps": flow_strip(traces["none"], traces["full"], ("inversion", "DMA"), known, whole(traces["none"])),
        "dma_metrics": dots_plot(
            {"": named},
            PLOTTED,
            f"The handle ends {off['full']:.1f} px from its target with DMA, {off['none']:.1f} px without",
            f"{known}. {DISTANCE}",
            colors=dict.fromkeys(unguided, BASE),
        ),
        "dma_table": dots_plot(
            {"": {case: found for case, found in named.items() if case not in unguided}},
            COMPARED,
            "What DMA, its losses and disturbed guides change",
            f"{known}; paired differences to the inversion alone, on the same sources",
            "diff",
        ),
    }
    save(pictures, folder)


if __name__ == "__main__":
    publish("dma", lambda folder: write(folder, load(Experiment), real()))
