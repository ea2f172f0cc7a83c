"""The experiment `dca` in numbers and figures."""

from pathlib import Path

import pandas as pd

from helpers.benchmarks.miniature import load_captioned
from helpers.experiments.dca import Experiment
from helpers.figures.best_of import best_of_grid, budget_plot
from helpers.figures.grids import prompt_grid
from helpers.figures.plots import cases_plot, objects_plot
from helpers.figures.table import ablation_table
from helpers.params import Params, load
from helpers.pipeline.score import Scored
from helpers.pipeline.summary import plain
from helpers.reports.common import about, experiment_metrics, publish, real, rows_of, scores, showcase, table

PLOTTED = ("attribute_acc", "relation_acc", "recall", "clip_score", "extra_objects", "kernel_distance")
AGAIN = {"unguided": ("none", "none_again", "none_best"), "guided": ("full", "full_again", "full_best")}  # more tries
BOUGHT = ("attribute_acc", "relation_acc", "clip_score")
TABLED = ("attribute_acc", "relation_acc", "recall", "color_acc", "clip_score", "extra_objects", "kernel_distance")


def by_objects(params: Params, scored: dict[str, Scored], scenes: dict) -> pd.DataFrame:
    """A line per image of the cases with every term and of their baselines: how many objects, which caption."""
    rows, baselines = [], {params.case(case).baseline for case in scored}
    for case, found in scored.items():
        chosen = params.case(case)
        if case in baselines or chosen.baseline != "none" or case == "full":
            known = {scene.id: len(scene.things) for scene in scenes[case]}
            label = {"guidance": "none" if chosen.method is None else "full", "caption": chosen.caption}
            rows += [{**label, "case": case, "objects": known[row["id"]], **row} for row in found.rows]
    return pd.DataFrame(rows)


def write(folder: Path, params: Params, reference) -> dict:
    """Tables and pictures into `folder`; returns the metrics."""
    chosen = params.experiment.cases
    folders = rows_of("dca", chosen)
    scored = scores(folders)
    scenes = {case: load_captioned(c.split, c.caption) for case, c in chosen.items()}
    same = {case for case, c in chosen.items() if (c.split, c.caption) == ("test", "long")}
    ours = {case: "attributes_relations" if case in same else c.baseline for case, c in chosen.items()}
    lines = {label: [case for case in cases if case in scored] for label, cases in AGAIN.items()}
    baselines = {
        "diff": {case: c.baseline for case, c in chosen.items()},
        "diff_attributes_relations": ours,
        "diff_once": {case: cases[0] for cases in AGAIN.values() for case in cases[1:]},
        "diff_unguided": dict(zip(AGAIN["guided"][1:], AGAIN["unguided"][1:], strict=True)),
    }
    metrics = experiment_metrics(scored, scenes, baselines, reference)
    images = by_objects(params, scored, scenes)
    kept = ["attribute_acc", "relation_acc", "recall", "clip_score", "extra_objects"]
    table(plain(metrics), list(baselines)).to_csv(folder / "dca.csv", index=False)
    means = images.groupby(["guidance", "caption", "objects"], sort=False)[kept].mean().reset_index()
    means.round(4).to_csv(folder / "dca_by_objects.csv", index=False)
    headline = [case for case in scored if chosen[case].images == "headline" and chosen[case].tries == 1]
    pairs = {label: cases[:2] for label, cases in lines.items() if len(cases) > 1}
    traces = {case: showcase(folders[case]) for case in headline}
    title = about(params)
    pictures = {
        "dca_cases": prompt_grid(traces, {case: scored[case].rows for case in headline}, title),
        "dca_metrics": cases_plot(metrics, PLOTTED, title),
        "dca_table": ablation_table(metrics, TABLED, title),
        "dca_objects": objects_plot(images, ("attribute_acc", "relation_acc", "recall"), title),
    }
    if pairs:
        tries = {
            label: tuple((scored[case].pictures, scored[case].rows) for case in pair) for label, pair in pairs.items()
        }
        pictures["dca_again"] = best_of_grid(tries, [scene.prompt for scene in scenes["none"]], title)
        pictures["dca_budget"] = budget_plot(metrics, lines, BOUGHT, title)
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=110)
    return metrics


if __name__ == "__main__":
    publish("dca", lambda folder: write(folder, load(Experiment), real()))
