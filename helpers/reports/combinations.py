"""The experiment `combinations` in numbers and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers.benchmarks.miniature_combined import load_combined
from helpers.experiments.combinations import CombinationCase, Experiment
from helpers.figures.combinations import cosines_plot
from helpers.figures.dots import dots_plot
from helpers.figures.grids import combination_grid
from helpers.figures.style import Metrics, save
from helpers.params import Params, load
from helpers.pipeline.score import Scored
from helpers.pipeline.summary import plain
from helpers.reports.common import experiment_metrics, publish, real, rows_of, scores, showcase, table
from helpers.sampling.trace import Trace

OWNED = {"attribute_acc": "text", "relation_acc": "text", "box_iou": "layout", "center_dist": "drag", "drag_md": "drag"}
COMPARED = (*OWNED, "background_psnr")
ALL = ("text", "layout", "drag")


def name(modules, weights: str) -> str:
    """The case of these modules."""
    return ("_".join(modules) or "none") + ("_paper" if weights == "paper" else "")


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
    draw(folder, params, metrics, scored, {case: showcase(folder) for case, folder in folders.items()})
    return metrics


def called(modules: Sequence[str]) -> str:
    """What these modules together are called."""
    return " + ".join(modules).replace("source", "source drawn again") or "unguided"


def apart(chosen: Mapping[str, CombinationCase], metrics: Metrics, least: int = 0) -> dict[str, Metrics]:
    """Weights -> modules in words -> entries, of the cases with at least so many modules: the paper's, then tuned."""
    tuned = [c.modules for c in chosen.values() if c.weights == "tuned" and len({*c.modules} & {*ALL}) >= least]
    found = {
        weights: {called(of): metrics.get(name(of, weights), {}) for of in tuned} for weights in ("paper", "tuned")
    }
    return {weights: of for weights, of in found.items() if any(of.values())}


def draw(folder: Path, params: Params, metrics: dict, scored: dict[str, Scored], traces: dict[str, Trace]) -> None:
    """All pictures of the report."""
    chosen = params.experiment.cases
    known = f"{params.sampling.backbone}, {params.profile.steps} DDIM steps; CFG only where no source is inverted"
    both = f"{known}. Hollow: one gradient of the paper's weighted sum, filled: tuned, a gradient each"
    tuned = {case: trace for case, trace in traces.items() if chosen[case].weights == "tuned"}
    columns = {case: called(chosen[case].modules) for case in tuned if case != "source"}
    pictures = {
        "combinations_cases": combination_grid(
            {said: tuned[case] for case, said in columns.items()},
            load_combined("test"),
            {said: scored[case].rows for case, said in columns.items()},
            "Prompt, layout and drag, alone and together",
            f"{known}; the first test scenes, tuned strengths. Dashes: the layout's boxes in the colours of the "
            "words; arrow: the drag",
        ),
        "combinations_matrix": dots_plot(
            apart(chosen, metrics, 2),
            list(OWNED),
            "What a module loses or gains beside others",
            f"{both}. Paired differences to one module alone: text (attributes, relations), layout (IoU), drag (px)",
            {metric: f"diff_{module}" for metric, module in OWNED.items()},
        ),
        "combinations_table": dots_plot(
            apart(chosen, metrics, 1),
            COMPARED,
            "What modules change, alone and together",
            f"{both}. Paired differences to unguided, with a drag to the source drawn again",
            "diff",
        ),
        "combinations_gradients": cosines_plot(
            {called(chosen[case].modules): trace for case, trace in tuned.items()},
            "Do modules pull the same way? Cosine of their gradients over the steps",
            known,
        ),
        "combinations_cost": dots_plot(
            apart(chosen, metrics),
            ["nfe"],
            "How often the denoiser is asked",
            f"{both} and early steps repeated",
            columns=1,
        ),
    }
    save(pictures, folder)


if __name__ == "__main__":
    publish("combinations", lambda folder: write(folder, load(Experiment), real()))
