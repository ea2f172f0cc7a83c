"""The experiment `combinations` in numbers and figures."""

from pathlib import Path

from helpers.benchmarks.miniature_combined import load_combined
from helpers.experiments.combinations import Experiment
from helpers.figures.combinations import cosines_plot, cost_plot
from helpers.figures.grids import combination_grid
from helpers.figures.table import ablation_table
from helpers.params import Params, load
from helpers.pipeline.summary import plain
from helpers.reports.common import experiment_metrics, publish, real, rows_of, scores, showcase, table

OWNED = {"attribute_acc": "text", "relation_acc": "text", "box_iou": "layout", "center_dist": "drag", "drag_md": "drag"}
TABLED = (*OWNED, "clip_score", "background_psnr", "kernel_distance")
ALL = ("text", "layout", "drag")


def name(modules, weights: str) -> str:
    """The case of these modules."""
    return "_".join(modules) + ("_paper" if weights == "paper" else "")


def write(folder: Path, params: Params, reference) -> dict:
    """Tables and pictures into `folder`; returns the metrics.

    diff_text, diff_layout, diff_drag: what a case differs by from that module alone, where it has it and others.
    """
    chosen = params.experiment.cases
    folders = rows_of("combinations", chosen)
    scored = scores(folders)
    scenes = dict.fromkeys(scored, [case.scene for case in load_combined("test")])
    alone = {
        f"diff_{module}": {
            case: name([module], c.weights) if {module} < set(c.modules) else "" for case, c in chosen.items()
        }
        for module in ALL
    }
    baselines = {"diff": {case: c.baseline for case, c in chosen.items()}, **alone}
    metrics = experiment_metrics(scored, scenes, baselines, reference)
    table(plain(metrics), list(baselines)).to_csv(folder / "combinations.csv", index=False)
    traces = {case: showcase(folder) for case, folder in folders.items()}
    tuned = {case: traces[case] for case, c in chosen.items() if c.weights == "tuned"}
    title = f"{params.sampling.backbone}, {params.profile.steps} DDIM steps; CFG only where no source is inverted"
    pictures = {
        "combinations_cases": combination_grid(
            tuned, load_combined("test"), {case: scored[case].rows for case in tuned}, title
        ),
        "combinations_matrix": ablation_table(
            metrics,
            list(OWNED),
            "differences to the metric's own module alone",
            {m: f"diff_{o}" for m, o in OWNED.items()},
        ),
        "combinations_table": ablation_table(metrics, TABLED, title),
        "combinations_gradients": cosines_plot(tuned, title),
        "combinations_cost": cost_plot(
            metrics, {case: len(set(c.modules) & set(ALL)) for case, c in chosen.items()}, title
        ),
    }
    for key, picture in pictures.items():
        picture.savefig(folder / f"{key}.png", dpi=110)
    return metrics


if __name__ == "__main__":
    publish("combinations", lambda folder: write(folder, load(Experiment), real()))
