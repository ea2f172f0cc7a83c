"""The experiment `combinations` in numbers and figures."""

from pathlib import Path

from helpers import figures
from helpers.miniature.combined import load_combined
from helpers.params import Params, load
from helpers.paths import RESULTS
from helpers.reports.common import experiment_metrics, publish, real, table
from helpers.score import load_score
from helpers.summary import plain
from helpers.trace import Trace

COMBINATIONS = RESULTS / "combinations"
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
    chosen = {case: params.combinations.case(case) for case in params.combinations.run}
    scored = {case: load_score(COMBINATIONS / "score" / case) for case in chosen}
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
    traces = {case: Trace.load(COMBINATIONS / "sample" / case / "trace") for case in chosen}
    tuned = {case: traces[case] for case, c in chosen.items() if c.weights == "tuned"}
    title = f"{params.sampling.backbone}, {params.profile.steps} DDIM steps; CFG only where no source is inverted"
    pictures = {
        "combinations_cases": figures.combination_grid(
            tuned, load_combined("test"), {case: scored[case].rows for case in tuned}, title
        ),
        "combinations_matrix": figures.ablation_table(
            metrics,
            list(OWNED),
            "differences to the metric's own module alone",
            {m: f"diff_{o}" for m, o in OWNED.items()},
        ),
        "combinations_table": figures.ablation_table(metrics, TABLED, title),
        "combinations_gradients": figures.cosines_plot(tuned, title),
        "combinations_cost": figures.cost_plot(
            metrics, {case: len(set(c.modules) & set(ALL)) for case, c in chosen.items()}, title
        ),
    }
    for key, picture in pictures.items():
        picture.savefig(folder / f"{key}.png", dpi=110)
    return metrics


if __name__ == "__main__":
    publish("combinations", lambda folder: write(folder, load(), real()))
