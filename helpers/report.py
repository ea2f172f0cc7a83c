"""Gathers what the stages made into figures/: metrics.json, tables as CSV, pictures: `python -m helpers.report`."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from helpers import figures
from helpers.metrics.judge import Judge
from helpers.metrics.parsing import parser_metrics
from helpers.miniature.benchmark import Case, load_cases
from helpers.params import load
from helpers.paths import FIGURES, MODELS, RESULTS, ROOT, weights
from helpers.score import Scored, load_score, reference_features
from helpers.summary import differences, plain, summarise
from helpers.trace import Trace

DGA = RESULTS / "dga"
BASELINES = {"diff": "none", "diff_coverage": "coverage"}  # the second: what the further terms add to coverage
PLOTTED = ("box_iou", "mask_iou", "recall", "color_acc", "background_acc", "kernel_distance")
TABLED = ("box_iou", "mask_iou", "box_ap50", "recall", "color_acc", "size_error", "distance_error", "kernel_distance")


def experiment_metrics(scored: dict[str, Scored], scenes: Sequence[Case], reference) -> dict:
    """case -> metric -> {"mean", "lo", "hi", "n", "diff", "diff_coverage"}.

    diff and diff_coverage are {"mean", "lo", "hi"} of the paired differences to BASELINES, on the benchmark cases that
    both have.
    """
    metrics = {}
    for case, found in scored.items():
        metrics[case] = summarise(found, scenes[: len(found.rows)], reference)
        for key, baseline in BASELINES.items():
            if baseline in scored:
                shared = scenes[: min(len(found.rows), len(scored[baseline].rows))]
                part = found.part([scene.id for scene in shared])
                for name, diff in differences(part, scored[baseline], shared, reference).items():
                    metrics[case][name][key] = diff
    return metrics


def miniature_metrics() -> dict:
    """model -> metric -> number: what the training notebooks measured on held-out scenes, kept beside the weights, and
    how well the parser, which is not trained, reads.
    """
    parts = [json.loads(path.read_text()) for path in sorted(MODELS.glob("*/metrics.json"))]
    trained = {model: numbers for part in parts for model, numbers in part.items()}
    return trained | {"parser": parser_metrics(ROOT / "tests" / "everyday_captions.txt")}


def table(metrics: dict) -> pd.DataFrame:
    """One line per case and metric."""
    lines = [
        {"case": case, "metric": name, **{key: entry[key] for key in ("mean", "lo", "hi", "n")}}
        | {f"{diff}_{key}": value for diff in BASELINES for key, value in entry.get(diff, {}).items()}
        for case, entries in metrics.items()
        for name, entry in entries.items()
    ]
    return pd.DataFrame(lines)


def by_objects(scored: dict[str, Scored], scenes: Sequence[Case]) -> pd.DataFrame:
    """Means per case, number of objects and whether mini-sd has seen every colour-object pair of the prompt."""
    about = {scene.id: {"objects": len(scene.things), "seen": scene.seen} for scene in scenes}
    rows = [{"case": case, **about[row["id"]], **row} for case, found in scored.items() for row in found.rows]
    kept = ["mask_iou", "box_iou", "recall", "color_acc", "background_acc", "extra_objects"]
    return pd.DataFrame(rows).groupby(["case", "objects", "seen"], sort=False)[kept].mean().reset_index()


def draw(folder: Path, metrics: dict, sweep: dict, scored: dict[str, Scored], shown: Sequence[str], about: str) -> None:
    """The pictures. shown: the cases of the grid, `none` and `full` among them."""
    figures.use_style()
    traces = {case: Trace.load(DGA / "sample" / case / "trace") for case in shown}
    rows = {case: scored[case].rows for case in shown}
    pictures = {
        "dga_cases": figures.case_grid(traces, rows, about),
        "dga_steps": figures.steps_strip(traces["none"], traces["full"], ("none", "full"), about),
        "dga_metrics": figures.cases_plot(metrics, PLOTTED, about),
        "dga_table": figures.ablation_table(metrics, TABLED, about),
        "dga_strength": figures.strength_plot(sweep, about + ", dev split"),
    }
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=110)


def write(folder: Path) -> None:
    params, scenes = load(), load_cases("test")
    scored = {case: load_score(DGA / "score" / case) for case in params.run.cases}
    reference = reference_features(Judge.from_pretrained(weights("judge")).eval())
    metrics = experiment_metrics(scored, scenes, reference)
    sweep = json.loads((DGA / "sweep" / "strength.json").read_text())
    everything = plain({"dga": metrics, "miniature": miniature_metrics()})
    (folder / "metrics.json").write_text(json.dumps(everything, indent=1) + "\n")
    table(everything["dga"]).to_csv(folder / "dga.csv", index=False)
    by_objects(scored, scenes).round(4).to_csv(folder / "dga_by_objects.csv", index=False)
    means = [
        {"scale": float(scale), **{name: e["mean"] for name, e in found.items()}} for scale, found in sweep.items()
    ]
    pd.DataFrame(means).round(6).to_csv(folder / "dga_strength.csv", index=False)
    about = f"{params.sampling.backbone}, {params.profile.steps} DDIM steps, CFG {params.sampling.cfg_scale:g}"
    headline = [case for case in scored if params.case(case).images == "headline"]
    draw(folder, metrics, sweep, scored, headline, about)


def main() -> None:
    """Write into a new folder first, so that an error leaves the old figures as they were."""
    part = FIGURES.with_name("figures.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    write(part)
    shutil.rmtree(FIGURES, ignore_errors=True)
    part.rename(FIGURES)
    print(f"{FIGURES.name}/: " + ", ".join(sorted(path.name for path in FIGURES.iterdir())))


if __name__ == "__main__":
    main()
