"""The experiment `sbpc` in numbers and figures."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from helpers.benchmarks.base import LayoutItem, load_benchmark
from helpers.experiments.sbpc import Experiment
from helpers.figures.dots import dots_plot
from helpers.figures.layout import pareto_plot
from helpers.figures.style import BASE, METHOD, OTHER, save
from helpers.figures.words import called
from helpers.params import Params, load
from helpers.pipeline.score import Scored
from helpers.pipeline.summary import plain
from helpers.reports.common import about, experiment_metrics, publish, real, rows_of, scores, table

NAMES = {
    "none": "mini-sd, one picture",
    "attend_excite": "Attend-and-Excite",
    "ilgd": "iLGD, told the boxes",
    "dga": "DGA, told the boxes",
    "pictures_5": "mini-sd, best of 5",
    "pictures_10": "mini-sd, best of 10",
    "short_10": "mini-sd, best of 10 short ones",
    "maps_1": "FG-DM, one map",
    "maps_5": "FG-DM, best of 5 maps",
    "maps_10": "FG-DM, best of 10 maps",
    "maps_10_fast": "FG-DM, best of 10 maps, 5 steps",
    "maps_10_slow": "FG-DM, best of 10 maps, 20 steps",
}
PLOTTED = ("recall", "color_acc", "attribute_acc", "relation_acc", "extra_objects", "clip_score")
SHARES = (0.5, 0.75, 0.9)  # pictures with at least so much recall, as in FG-DM's Table 3
SEARCHED = "pictures_10"  # what FG-DM is to be as good as


def at_least(scored: Mapping[str, Scored]) -> pd.DataFrame:
    """FG-DM's Table 3: recall among a prompt's candidates, and the share of pictures above .5, .75 and .9."""
    rows = []
    for case, found in scored.items():
        values = pd.DataFrame(found.rows)
        means = values[["candidate_min", "candidate_median", "candidate_max", "recall", "seconds", "nfe"]].mean()
        rows.append({"case": case, **means, **{f"over_{s}": (values["recall"] >= s).mean() for s in SHARES}})
    return pd.DataFrame(rows).round(4)


def by_objects(scored: Mapping[str, Scored], scenes: tuple[LayoutItem, ...]) -> pd.DataFrame:
    """Recall and seconds by the number of objects that a prompt names."""
    counts = {scene.id: len(scene.things) for scene in scenes}
    rows = [
        {"case": case, "objects": counts[row["id"]], "recall": row["recall"], "seconds": row["seconds"]}
        for case, found in scored.items()
        for row in found.rows
    ]
    return pd.DataFrame(rows).groupby(["case", "objects"], sort=False).mean().reset_index().round(4)


def faster(scored: Scored, baseline: Scored) -> float:
    """How many times as fast, over all pictures."""
    ours, theirs = (sum(row["seconds"] for row in of.rows) for of in (scored, baseline))
    return theirs / ours


def write(folder: Path, params: Params, reference) -> dict:
    """Tables and pictures into `folder`; returns the metrics.

    diff: to the case none; diff_searched: to the best of ten pictures. The metric faster says how many times as fast as
    that a case is.
    """
    folders = rows_of("sbpc", params.experiment.cases)
    scored = scores(folders)
    scenes = load_benchmark(params.experiment.benchmark).items("test")
    baselines = {"diff": dict.fromkeys(scored, "none"), "diff_searched": dict.fromkeys(scored, SEARCHED)}
    metrics = experiment_metrics(scored, dict.fromkeys(scored, scenes), baselines, reference)
    if SEARCHED in scored:
        for case, found in scored.items():
            times = faster(found, scored[SEARCHED])
            metrics[case]["faster"] = {"mean": times, "lo": times, "hi": times, "n": len(found.rows)}
    lines = {case: {n: e for n, e in entries.items() if n != "faster"} for case, entries in metrics.items()}
    table(plain(lines), list(baselines)).to_csv(folder / "sbpc.csv", index=False)
    at_least(scored).to_csv(folder / "sbpc_candidates.csv", index=False)
    by_objects(scored, scenes).to_csv(folder / "sbpc_by_objects.csv", index=False)
    colors = {called(NAMES, case): color(case) for case in metrics}
    named = {called(NAMES, case): entries for case, entries in metrics.items()}
    known = f"{about(params)}; {len(scenes)} prompts of 5 and 6 objects. Grey: mini-sd, blue: its pictures chosen or "
    known += f"changed, orange: FG-DM, maps at CFG {params.experiment.map_cfg_scale:g}"
    best = max((case for case in metrics if case.startswith("maps")), key=lambda c: metrics[c]["recall"]["mean"])
    message = (
        f"Maps are cheap to choose among: recall {metrics[best]['recall']['mean']:.2f} with FG-DM, "
        f"{metrics['none']['recall']['mean']:.2f} without"
    )
    pictures = {
        "sbpc_cost": pareto_plot(named, message, known, colors, ("seconds", "nfe"), "recall"),
        "sbpc_table": dots_plot({"": named}, PLOTTED, "What the chosen and changed pictures show", known, None, colors),
    }
    save(pictures, folder)
    return metrics


def color(case: str) -> str:
    """Of a case in figures."""
    return BASE if case == "none" else OTHER if case.startswith("maps") else METHOD


if __name__ == "__main__":
    publish("sbpc", lambda folder: write(folder, load(Experiment), real()))
