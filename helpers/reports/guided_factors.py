"""The experiment `guided_factors` in numbers and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers.benchmarks.base import LayoutItem
from helpers.experiments.guided_factors import Experiment, asked
from helpers.figures.dots import dots_plot
from helpers.figures.guided_factors import maps_grid
from helpers.figures.layout import pareto_plot
from helpers.figures.style import BASE, METHOD, OTHER, save
from helpers.figures.words import DISTANCE, called
from helpers.params import Params, load
from helpers.pipeline.score import Scored
from helpers.pipeline.summary import plain
from helpers.reports.common import about, experiment_metrics, publish, real, rows_of, scores, table
from helpers.reports.free import judge

FREE = "_free"  # how a case on free boxes is called after the one on tight boxes
BEST = "picture_ilgd_dga"  # of the methods on pictures, what a map is to be as good as
PLOTTED = ("box_iou", "recall", "color_acc", "extra_objects", "seconds", "kernel_distance")
SHOWN = ("none", BEST, "map", "map_ilgd_5", "map_arranged_5")
NAMES = {
    "none": "mini-sd",
    "picture_layout_guidance": "layout guidance",
    "picture_layout_guidance_dga": "layout guidance with DGA",
    "picture_ilgd_dga": "iLGD with DGA",
    "map": "map",
    "map_dga": "map by DGA",
    "map_layout_guidance": "map by layout guidance",
    "map_ilgd": "map by iLGD",
    "map_ilgd_5": "map by iLGD, best of 5",
    "map_arranged": "map, stretched",
    "map_ilgd_arranged": "map by iLGD, stretched",
    "map_arranged_5": "map, best of 5, stretched",
}
NAMES |= {f"{case}{FREE}": f"{NAMES[case]}, free boxes" for case in (*SHOWN, "map_ilgd")}


def baselines(cases: Sequence[str]) -> dict[str, dict[str, str]]:
    """diff: of every case to mini-sd without a method; diff_best: to the best method on pictures; both on its boxes."""
    free = {case: FREE if case.endswith(FREE) else "" for case in cases}
    return {"diff": {case: f"none{free[case]}" for case in cases}, "diff_best": {c: BEST + free[c] for c in cases}}


def write(folder: Path, params: Params, reference) -> dict:
    """Tables and pictures into `folder`; returns the metrics, see `baselines`."""
    cases = params.experiment.cases
    scored = scores(rows_of("guided_factors", cases))
    scenes = {case: asked(params, of) for case, of in cases.items()}
    for case, found in scored.items():
        judge({case: found}, scenes[case])
    metrics = experiment_metrics(scored, scenes, baselines(list(scored)), reference)
    table(plain(metrics), ["diff", "diff_best"]).to_csv(folder / "guided_factors.csv", index=False)
    draw(folder, params, metrics, scored, scenes)
    return metrics


def draw(folder: Path, params: Params, metrics: Mapping, scored: Mapping[str, Scored], scenes: Mapping) -> None:
    """All pictures of the report."""
    named = {called(NAMES, case): entries for case, entries in metrics.items()}
    colors = {called(NAMES, case): color(case) for case in metrics}
    tight = {name: of for name, of in named.items() if not name.endswith("free boxes")}
    maps = [case for case in metrics if case.startswith("map") and not case.endswith(FREE)]
    best = max(maps, key=lambda case: metrics[case]["box_iou"]["mean"])
    kinds = "Grey: mini-sd, blue: methods on its picture, orange: methods on FG-DM's map, then the picture"
    known = f"{about(params)}; {len(scenes['none'])} prompts. {kinds}"
    message = f"Boxes asked of the map: box IoU {metrics[best]['box_iou']['mean']:.2f} with {called(NAMES, best)}"
    if BEST in metrics:
        message += f", {metrics[BEST]['box_iou']['mean']:.2f} with {called(NAMES, BEST)} on the picture"
    titles = {"tight boxes": tight, "free boxes": {name: of for name, of in named.items() if name not in tight}}
    pictures = {
        "guided_factors_cost": pareto_plot(tight, message, known, colors, ("seconds", "nfe")),
        "guided_factors_table": dots_plot(
            {title: of for title, of in titles.items() if of}, PLOTTED, message, f"{known}. {DISTANCE}", None, colors
        ),
    }
    shown = [case for case in SHOWN if case in scored]
    if shown:
        pictures["guided_factors_cases"] = maps_grid(
            {called(NAMES, case): scored[case].pictures for case in shown},
            {called(NAMES, case): scored[case].rows for case in shown},
            _first(scenes[shown[0]], len(scored[shown[0]].pictures)),
            "The map is asked for the boxes, and the picture follows it",
            f"{about(params)}; the first prompts, the same noise in a row",
        )
    save(pictures, folder)


def _first(scenes: Sequence[LayoutItem], count: int) -> list:
    return [scene.layout.boxes_only() for scene in scenes[:count]]


def color(case: str) -> str:
    """Of a case in figures."""
    return BASE if case.startswith("none") else OTHER if case.startswith("map") else METHOD


if __name__ == "__main__":
    publish("guided_factors", lambda folder: write(folder, load(Experiment), real()))
