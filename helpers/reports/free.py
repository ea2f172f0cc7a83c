"""The experiment `free` in numbers and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers.benchmarks.base import LayoutItem, load_benchmark
from helpers.experiments.free import Experiment
from helpers.figures.dots import dots_plot
from helpers.figures.free import free_grid
from helpers.figures.style import BASE, METHOD, OTHER, save
from helpers.figures.words import DISTANCE, called
from helpers.metrics import free
from helpers.params import Params, load
from helpers.pipeline.score import Scored
from helpers.pipeline.summary import plain
from helpers.reports.common import about, experiment_metrics, publish, real, rows_of, scores, showcase, table

PLACED = ("box_iou", "filled", "inside", "centred", "recall", "kernel_distance")
SHOWN = ("none", "ilgd", "dga", "dga_free", "layout_guidance_dga", "layout_guidance_free")
CEILING = "what objects can fill"
NAMES = {
    "none": "unguided",
    "dga": "DGA",
    "dga_free": "DGA, cores (ours)",
    "ilgd": "iLGD",
    "ilgd_share": "iLGD, loss of shares (ours)",
    "boxdiff": "BoxDiff",
    "layout_guidance": "layout guidance",
    "ilgd_dga": "iLGD with DGA",
    "layout_guidance_dga": "layout guidance with DGA",
    "layout_guidance_free": "layout guidance with DGA, cores",
}
PLAIN = {"dga_free": "dga", "layout_guidance_free": "layout_guidance_dga"}  # the same with whole boxes


def judge(scored: Mapping[str, Scored], scenes: Sequence[LayoutItem]) -> None:
    """Adds what `helpers.metrics.free` says of every image to its row."""
    for found in scored.values():
        for row, scene, things in zip(found.rows, scenes, found.found, strict=False):  # a case may have fewer images
            if row["id"] != scene.id:
                raise ValueError(f"the rows have {row['id']!r} in the place of {scene.id!r}: run `dvc repro`")
            row |= free.score(scene, things)


def write(folder: Path, params: Params, reference) -> dict:
    """Tables and pictures into `folder`; returns the metrics.

    diff: to the case none. diff_dga: to DGA. diff_boxes: of a case with the cores of boxes to the same with the boxes.
    """
    folders = rows_of("free", params.experiment.cases)
    scored = scores(folders)
    scenes = load_benchmark(params.experiment.benchmark).items("test")
    judge(scored, scenes)
    baselines = {"diff": dict.fromkeys(scored, "none"), "diff_dga": dict.fromkeys(scored, "dga"), "diff_boxes": PLAIN}
    metrics = experiment_metrics(scored, dict.fromkeys(scored, scenes), baselines, reference)
    table(plain(metrics), list(baselines)).to_csv(folder / "free.csv", index=False)
    draw(folder, params, metrics, scored, scenes, {case: folders[case] for case in SHOWN if case in folders})
    return metrics


def draw(folder: Path, params: Params, metrics: Mapping, scored: Mapping, scenes: Sequence, shown: Mapping) -> None:
    """All pictures of the report."""
    known = about(params)
    names = {case: called(NAMES, case) for case in metrics}
    colors = {name: BASE if case == "none" else OTHER if case in PLAIN else METHOD for case, name in names.items()}
    most = metrics["none"]["ceiling"]
    best = max(metrics, key=lambda case: metrics[case]["box_iou"]["mean"])
    rows = {CEILING: {"box_iou": most}} | {names[case]: metrics[case] for case in metrics}
    reached = metrics[best]["box_iou"]["mean"]
    pictures = {
        "free_table": dots_plot(
            {"": rows},
            PLACED,
            f"Free boxes: {names[best]} reaches box IoU {reached:.2f}, of {most['mean']:.2f} that objects can fill",
            f"{known}. Filled: box IoU as a share of what the object can reach in its box. Inside: the share of the "
            "object's box. Centred: 1 in the middle of the box, 0 as far off as its corners. An absent object counts "
            f"0. {DISTANCE}. Grey: unguided, orange: with the cores of boxes (ours)",
            None,
            colors | {CEILING: "black"},
        ),
        "free_cases": free_grid(
            {case: showcase(path) for case, path in shown.items()},
            {case: scored[case].rows for case in shown},
            [scene.layout for scene in scenes],
            names,
            "Boxes as people draw them, the same noise in a row",
            f"{known}; first test prompt of every number of objects. Dashes: the box that was asked for",
        ),
    }
    save(pictures, folder)


if __name__ == "__main__":
    publish("free", lambda folder: write(folder, load(Experiment), real()))
