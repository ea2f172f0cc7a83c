"""The experiment `layout` in numbers and figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.benchmarks.base import LayoutItem
from helpers.benchmarks.miniature import load_captioned
from helpers.experiments.layout import Experiment
from helpers.figures.attention import attention_grid
from helpers.figures.dots import dots_plot
from helpers.figures.grids import case_grid
from helpers.figures.layout import budget_plot, pareto_plot, search_plot, search_table
from helpers.figures.style import BASE, METHOD, OTHER, save
from helpers.figures.words import DISTANCE, called
from helpers.metrics import stats
from helpers.params import Params, load
from helpers.paths import RESULTS
from helpers.pipeline.score import Scored, whole
from helpers.pipeline.summary import plain
from helpers.reports.common import about, experiment_metrics, publish, real, rows_of, scores, showcase, table
from helpers.sampling.trace import Trace

LAYOUT = RESULTS / "layout"
GUIDED = ("none", "dga", "ilgd_dga", "layout_guidance_dga")  # not by attention alone
VARIANTS = ("ilgd_share",)  # of ours, by attention alone
PLACED = ("box_iou", "mask_iou", "box_ap50", "recall", "attribute_acc", "extra_objects")
LOOKS = ("kernel_distance", "clip_score", "clip_iqa", "contrast", "saturation", "nfe")
SHOWN = ("none", "ilgd_tuned", "dga_tuned", "ilgd_dga_tuned")
NAMES = {
    "none": "unguided",
    "dga": "DGA",
    "ilgd": "iLGD",
    "ilgd_injection": "iLGD, injection only",
    "ilgd_loss": "iLGD, loss only",
    "ilgd_share": "iLGD, loss of shares (ours)",
    "attend_excite": "Attend-and-Excite",
    "boxdiff": "BoxDiff",
    "layout_guidance": "layout guidance",
    "densediffusion": "DenseDiffusion",
    "multidiffusion": "MultiDiffusion",
    "composable": "Composable Diffusion",
    "directed": "Directed Diffusion",
    "ilgd_dga": "iLGD with DGA",
    "layout_guidance_dga": "layout guidance with DGA",
}
ALONE = "by attention alone"
SIDES = {ALONE: METHOD, "with DGA's segmenter": OTHER}
COLORED = "Grey: unguided, blue: by attention alone, orange: with DGA's segmenter"
BUDGETS = {"60": 60, "125": 125, "any": np.inf}  # evaluations of the denoiser a picture
OVERLAP, ELONGATED = 0.02, 1.3  # share of the smaller box in another; ratio of a box's sides


def name(case: str) -> str:
    """What a case's method is called."""
    return called(NAMES, case.removesuffix("_tuned"))


def by_attention(case: str) -> bool:
    """Does the case place objects by attention alone?"""
    return case.removesuffix("_tuned") not in GUIDED


def best_attention(scored: Mapping[str, Scored], without: Sequence[str] = ()) -> str:
    """The tuned case with the largest box IoU among those by attention alone. without: methods that do not count."""
    tuned = [case for case in scored if case.endswith("_tuned") and by_attention(case)]
    tuned = [case for case in tuned if case.removesuffix("_tuned") not in without]
    return max(tuned, key=lambda case: np.mean([row["box_iou"] for row in scored[case].rows]))


def gain(scored: Scored, baseline: Scored, metric: str) -> dict[str, float]:
    """How much larger the metric's mean is, as a share of the baseline's: {"mean", "lo", "hi", "n"} over prompts."""
    ours, theirs = (np.array([row[metric] for row in found.rows]) for found in (scored, baseline))
    return stats.bootstrap(lambda counts: (counts @ ours) / max(counts @ theirs, 1e-9) - 1, len(ours))


def affordable(search: Mapping, most: float) -> dict | None:
    """Of all settings that were tried with at most so many evaluations a picture the best: its box IoU on dev, and its
    evaluations as "nfe"; None where all took more."""
    tried = [found for found in search["tried"] if found["nfe"]["mean"] <= most]
    best = max(tried, key=lambda found: found["box_iou"]["mean"], default=None)
    return best and best["box_iou"] | {"nfe": best["nfe"]["mean"]}


def leading(metrics: Mapping[str, Mapping], most: str) -> str:
    """Who places best with at most so many evaluations, in words."""
    found = {case: entries[f"within_{most}"] for case, entries in metrics.items() if entries.get(f"within_{most}")}
    if not found:
        return f"no method takes at most {most} evaluations"
    best = max(found, key=lambda case: found[case]["mean"])
    return f"with at most {most} evaluations {name(best)} places best, box IoU {found[best]['mean']:.2f}"


def kinds_of(scene: LayoutItem) -> dict[str, bool | int]:
    """What a layout is like: how many objects, do boxes overlap, is one elongated."""
    boxes = np.array([region.box for region in scene.layout.regions])
    sides = boxes[:, 2:] - boxes[:, :2]
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clip(0).prod(-1) / np.minimum(sides.prod(-1)[:, None], sides.prod(-1)[None])
    np.fill_diagonal(shared, 0)
    return {
        "objects": len(boxes),
        "overlapping": bool(shared.max() > OVERLAP),
        "elongated": bool(np.maximum(sides[:, 0] / sides[:, 1], sides[:, 1] / sides[:, 0]).max() > ELONGATED),
    }


def by_kind(scored: Mapping[str, Scored], scenes: Sequence[LayoutItem]) -> pd.DataFrame:
    """Box IoU of every case on layouts of one kind, with its interval."""
    kinds = {scene.id: kinds_of(scene) for scene in scenes}
    rows = []
    for case, found in scored.items():
        for kind in ("objects", "overlapping", "elongated"):
            values = [kinds[row["id"]][kind] for row in found.rows]
            for value in sorted(set(values)):
                chosen = [row["box_iou"] for row, v in zip(found.rows, values, strict=True) if v == value]
                rows.append({"case": case, "kind": kind, "value": value, **stats.mean(chosen)})
    return pd.DataFrame(rows)


def write(folder: Path, params: Params, reference) -> dict:
    """Tables and pictures into `folder`; returns the metrics.

    diff: to the case none. diff_attention: to the best by attention alone. diff_boxdiff: of iLGD to BoxDiff, defaults
    with defaults and tuned with tuned. The metric iou_gain is how much larger box IoU is than that of the best by
    attention, iou_gain_paper than that of the best of a paper. within_<budget>: see `affordable`.
    """
    folders = rows_of("layout", [*params.experiment.cases, *(f"{case}_tuned" for case in params.experiment.search)])
    scored = scores(folders)
    scenes = load_captioned("test", "short")
    best, papers = best_attention(scored), best_attention(scored, VARIANTS)
    baselines = {
        "diff": dict.fromkeys(scored, "none"),
        "diff_attention": dict.fromkeys(scored, best),
        "diff_boxdiff": {"ilgd": "boxdiff", "ilgd_tuned": "boxdiff_tuned"},
    }
    metrics = experiment_metrics(scored, dict.fromkeys(scored, scenes), baselines, reference)
    for case, found in scored.items():
        metrics[case]["iou_gain"] = gain(found, scored[best], "box_iou")
        metrics[case]["iou_gain_paper"] = gain(found, scored[papers], "box_iou")
    searches = {
        case: json.loads((LAYOUT / "search" / case / "search.json").read_text()) for case in params.experiment.search
    }
    table(plain(metrics), list(baselines)).to_csv(folder / "layout.csv", index=False)
    by_kind(scored, scenes).round(4).to_csv(folder / "layout_by_kind.csv", index=False)
    search_table(searches).to_csv(folder / "layout_search.csv", index=False)
    for case, found in searches.items():
        metrics[f"{case}_tuned"] |= {f"within_{name}": affordable(found, most) for name, most in BUDGETS.items()}
    traces = {case: showcase(folders[case]) for case in SHOWN if case in folders}
    draw(folder, params, metrics, scored, searches, traces)
    return metrics


def draw(folder: Path, params: Params, metrics: dict, scored: dict, searches: dict, traces: dict[str, Trace]) -> None:
    """All pictures of the report."""
    known, colors = about(params), {}
    for case in metrics:
        colors[name(case)] = BASE if case == "none" else METHOD if by_attention(case) else OTHER
    tuned = {name(case): found for case, found in metrics.items() if case.endswith("_tuned") or case == "none"}
    defaults = {name(case): found if case != "none" else {} for case, found in metrics.items() if "_tuned" not in case}
    series = {"defaults": defaults, "tuned": tuned}
    best = max(tuned, key=lambda case: tuned[case]["box_iou"]["mean"])
    ious = f"box IoU {tuned[best]['box_iou']['mean']:.2f}, {tuned[name('none')]['box_iou']['mean']:.2f} unguided"
    tried = next(iter(searches.values()))["tried"]
    tries, searched = len(tried), tried[0]["box_iou"]["n"]
    both = f"{known}. {COLORED}. Hollow: the paper's settings (of ours: our own), filled: the best of {tries} on dev"
    kept = sum(found["best"] == found["tried"][0]["options"] for found in searches.values())
    pictures = {
        "layout_cases": case_grid(
            {name(case) + " tuned" * case.endswith("_tuned"): trace for case, trace in traces.items()},
            {name(case) + " tuned" * case.endswith("_tuned"): scored[case].rows for case in traces},
            "The same noise: unguided, by attention, by a segmenter, by both",
            f"{known}; first test prompt of every number of objects; tuned: the best of {tries} on dev layouts. "
            "Dashes: the box that was asked for",
        ),
        "layout_table": dots_plot(
            series, PLACED, f"Where objects come to stand: {best} reaches {ious}", both, None, colors
        ),
        "layout_looks": dots_plot(
            series,
            LOOKS,
            "How the same pictures look, and how often the denoiser is asked",
            f"{DISTANCE}. {both}",
            None,
            colors,
        ),
        "layout_pareto": pareto_plot(
            tuned,
            f"What placement costs: {best} reaches {ious}",
            f"{known}; each method at the best of {tries} settings. {COLORED}. {DISTANCE}",
            colors,
        ),
        "layout_budget": budget_plot(
            {by: [found for case, found in searches.items() if by_attention(case) == (by == ALONE)] for by in SIDES},
            SIDES,
            "; ".join(leading(metrics, most) for most in ("60", "125")).replace("with", "With", 1),
            f"{known}; {searched} layouts of the dev split. A dot: a setting of a method; a line: the best so far",
        ),
        "layout_search": search_plot(
            {name(case): found for case, found in searches.items()},
            f"The first of {tries} settings is the best for {kept} of {len(searches)} methods",
            f"{known}; {searched} layouts of the dev split. Circles: all settings tried; blue: the best with its 95 % "
            "interval, stated on the right; the test split is drawn with it.",
        ),
        "layout_attention": attention_grid(
            {name(case): trace for case, trace in traces.items() if case != "dga_tuned"}, known, whole(traces["none"])
        ),
    }
    save(pictures, folder)


if __name__ == "__main__":
    publish("layout", lambda folder: write(folder, load(Experiment), real()))
