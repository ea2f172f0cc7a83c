"""Layout methods and ablations of iLGD from scores to figures: what is best, what differs, what is drawn."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from drawing import SEARCHES, entry, found_by
from handmade import case

from helpers.benchmarks.miniature import load_captioned
from helpers.conditions import Layout, Region
from helpers.experiments import ilgd as ablations
from helpers.experiments import layout as experiment
from helpers.guidance.cfg import CFG
from helpers.guidance.ilgd import ILGD
from helpers.judges.base import Found
from helpers.metrics.layout import AveragePrecision, targets
from helpers.params import load
from helpers.pipeline import score, summary
from helpers.pipeline.score import Scored
from helpers.reports import common
from helpers.reports import ilgd as ilgd_report
from helpers.reports import layout as layout_report
from helpers.reports.layout import affordable, best_attention, by_attention, by_kind, gain, kinds_of, leading
from helpers.sampling.attention_maps import AttentionMaps
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace

PARAMS = load(experiment.Experiment, "smoke")
SCENES = load_captioned("test", "short")[:6]


def scored(*ious, scenes=SCENES, **metrics):
    """Hand-made scores: a box IoU for each of the first cases, everything else the same in all."""
    rows = [{"id": scene.id, "seed": scene.seed, "box_iou": iou, **metrics} for scene, iou in zip(scenes, ious)]
    features = torch.randn(len(ious), 64, generator=torch.Generator().manual_seed(round(sum(ious) * 1000)))
    return Scored(rows, [[] for _ in rows], features)


# --- what is compared ------------------------------------------------------------------------------------------------


def test_a_gain_is_the_ratio_of_the_means_minus_one():
    got = gain(scored(0.6, 0.2, 0.4), scored(0.1, 0.3, 0.2), "box_iou")
    assert got["mean"] == pytest.approx(1.0) and got["n"] == 3
    assert got["lo"] < 1 < got["hi"]


@pytest.mark.parametrize(("factor", "share"), [(1.0, 0.0), (1.25, 0.25), (0.5, -0.5)])
def test_a_gain_that_is_the_same_everywhere_has_no_width(factor, share):
    ious = np.array([0.2, 0.5, 0.4, 0.1])
    got = gain(scored(*(factor * ious)), scored(*ious), "box_iou")
    assert (got["mean"], got["lo"], got["hi"]) == pytest.approx((share, share, share))


def test_the_best_by_attention_is_tuned_and_without_dga():
    found = {
        "none": scored(0.1),
        "ilgd": scored(0.9),  # defaults
        "dga_tuned": scored(0.8),
        "ilgd_dga_tuned": scored(0.95),
        "boxdiff_tuned": scored(0.5, 0.3),
        "ilgd_tuned": scored(0.3, 0.6),
    }
    assert best_attention(found) == "ilgd_tuned" and best_attention(found, ("ilgd",)) == "boxdiff_tuned"
    assert [by_attention(name) for name in found] == [False, True, False, False, True, True]


def test_every_method_but_dga_and_the_baseline_is_by_attention_alone():
    guided = {"none", "dga", "ilgd_dga", "layout_guidance_dga"}
    for suffix in ("", "_tuned"):
        assert {name for name in PARAMS.experiment.cases if not by_attention(name + suffix)} == guided


def test_what_a_budget_buys():
    def tried(nfe, iou):
        return {"nfe": {"mean": nfe}, "box_iou": {"mean": iou, "lo": 0, "hi": 1, "n": 32}}

    search = {"tried": [tried(40, 0.3), tried(60, 0.2), tried(94, 0.6), tried(95, 0.5)]}
    assert [affordable(search, most) for most in (39, 40, 93, 94, np.inf)] == [
        None,
        *[{"mean": 0.3, "lo": 0, "hi": 1, "n": 32, "nfe": 40}] * 2,
        *[{"mean": 0.6, "lo": 0, "hi": 1, "n": 32, "nfe": 94}] * 2,
    ]
    metrics = {"none": {}, "ilgd_tuned": {"within_60": {"mean": 0.3}}, "dga_tuned": {"within_60": None}}
    assert leading(metrics, "60") == "with at most 60 evaluations iLGD places best, box IoU 0.30"
    assert leading(metrics, "125") == "no method takes at most 125 evaluations"


SQUARE, TALL, INSIDE = ("car", "red", 0, 0, 20, 20), ("tree", "red", 40, 0, 50, 20), ("ball", "blue", 5, 5, 15, 15)


@pytest.mark.parametrize(
    ("things", "objects", "overlapping", "elongated"),
    [
        ([SQUARE], 1, False, False),
        ([TALL], 1, False, True),
        ([("car", "red", 0, 0, 40, 20)], 1, False, True),
        ([("car", "red", 0, 0, 25, 20)], 1, False, False),  # a ratio of 1.25 is none yet
        ([SQUARE, TALL], 2, False, True),
        ([SQUARE, INSIDE], 2, True, False),
        ([INSIDE, SQUARE], 2, True, False),
        ([("car", "red", 0, 0, 60, 60), ("ball", "blue", 58, 58, 64, 64)], 2, True, False),  # 4 pixels of 36
        ([SQUARE, ("ball", "blue", 20, 0, 40, 20)], 2, False, False),  # they touch
        ([SQUARE, ("ball", "blue", 19, 19, 39, 39)], 2, False, False),  # 1 of 400 pixels
        ([SQUARE, ("ball", "blue", 17, 17, 37, 37), ("box", "red", 44, 44, 60, 60)], 3, True, False),  # 9 of 400
    ],
)
def test_kinds_of_layouts_made_by_hand(things, objects, overlapping, elongated):
    found = kinds_of(case(*things))
    assert found == {"objects": objects, "overlapping": overlapping, "elongated": elongated}


def test_box_iou_by_kind_counts_every_layout_once():
    scenes = [
        case(*things).model_copy(update={"id": name})
        for name, things in {"a": [SQUARE], "b": [TALL], "c": [SQUARE, INSIDE], "d": [SQUARE, TALL]}.items()
    ]
    found = {"none": scored(0.1, 0.2, 0.3, 0.4, scenes=scenes), "ilgd": scored(0.5, 0.7, scenes=scenes)}
    table = by_kind(found, scenes).set_index(["case", "kind", "value"]).sort_index()
    assert table.loc[("none", "objects"), "n"].to_dict() == {1: 2, 2: 2}
    assert table.loc[("none", "overlapping"), "n"].to_dict() == {False: 3, True: 1}
    assert table.loc[("none", "elongated"), "n"].to_dict() == {False: 2, True: 2}
    assert table.loc[("none", "elongated", True), "mean"] == pytest.approx(0.3)
    assert table.loc[("none", "overlapping", True), "mean"] == pytest.approx(0.3)
    assert table.loc[("ilgd", "objects", 1), "mean"] == pytest.approx(0.6)
    assert ("ilgd", "objects", 2) not in table.index and ("ilgd", "overlapping", True) not in table.index


def test_kinds_of_the_benchmark_are_all_there():
    kinds = pd.DataFrame([kinds_of(scene) for scene in load_captioned("test", "short")])
    assert kinds.objects.value_counts().to_dict() == dict.fromkeys((1, 2, 3, 4), 50)
    assert 10 < kinds.overlapping.sum() < 100 and kinds.elongated.any()
    assert not kinds.overlapping[kinds.objects == 1].any()


def test_a_difference_is_that_of_what_was_evaluated_alone(monkeypatch):
    draws = 50
    monkeypatch.setattr(summary.stats, "resampled", partial(summary.stats.resampled, draws=draws))
    ours, theirs = scored(0.6, 0.2, 0.4, 0.5), scored(0.1, 0.3, 0.2, 0.2, 0.9)
    part = theirs.part([row["id"] for row in ours.rows])
    evaluated = [summary.evaluate(found, SCENES[:4], reference()) for found in (ours, part)]
    change = evaluated[0].minus(evaluated[1])
    assert change == summary.differences(ours, theirs, SCENES[:4], reference())
    assert change["box_iou"]["mean"] == pytest.approx(0.225)
    distances = [summary.KernelDistance(found.features, reference()) for found in (ours, part)]
    drawn = [distances[0](counts) - distances[1](counts) for counts in summary.stats.counts(4, draws)]
    width = np.subtract(*np.nanpercentile(drawn, [97.5, 2.5]))
    assert change["kernel_distance"]["hi"] - change["kernel_distance"]["lo"] == pytest.approx(width)
    with pytest.raises(ValueError, match="4 images cannot be paired with 5 of the baseline"):
        evaluated[0].minus(summary.evaluate(theirs, SCENES[:5], reference()))
    others = summary.evaluate(scored(0.1, 0.2, 0.3, 0.4, scenes=SCENES[1:]), SCENES[1:5], reference())
    with pytest.raises(ValueError, match="cannot be paired with '.*' of the baseline: score the same"):
        evaluated[0].minus(others)


def test_precision_of_boxes_is_the_same_from_what_was_stored(tmp_path):
    """The masks of recognised objects are not stored: their picture's size must not be lost with them."""
    exact = [
        [Found(target.kind, target.color, target.pattern, 0.9, tuple(round(v) for v in target.box), target.mask)]
        for target in (targets(scene)[0] for scene in SCENES)
    ]
    live = replace(scored(*[0.5] * 6), found=exact)
    score.save(live, tmp_path)
    stored = common.scores({"full": tmp_path})["full"]
    precision = [AveragePrecision(SCENES, of.found, (0.5,))(np.ones(6)) for of in (live, stored)]
    assert precision[0] == precision[1] > 0.1


# --- reports ---------------------------------------------------------------------------------------------------------

LAYOUT = Layout(
    prompt="a red car and a blue fish",
    regions=[Region(phrase="red car", box=(0, 0, 0.5, 0.5)), Region(phrase="blue fish", box=(0.5, 0.25, 1, 1))],
)
COSTS = {"nfe": 20.0, "seconds": 2.0, "peak_mb": 500.0, "eff_cfg": 5.0}
LOOKS = {"clip_score": 0.3, "clip_iqa": 0.5, "contrast": 0.2, "saturation": 0.4}
JUDGED = {"mask_iou": 0.3, "recall": 0.5, "attribute_acc": 0.5, "color_acc": 0.5, "extra_objects": 0.0}


@pytest.fixture(scope="module")
def traces(tiny):
    """The baseline and iLGD on a tiny model, attention recorded."""
    made = {"none": [], "ilgd": [ILGD.paper(layouts=LAYOUT)]}
    recorded = {name: Trace([0, 1]) for name in made}
    for name, trace in recorded.items():
        guidance = [CFG(3), *made[name], AttentionMaps(layouts=LAYOUT)]
        sample(tiny, [LAYOUT.prompt] * 2, guidance, steps=10, seeds=(3, 4), trace=trace)
    return recorded


@pytest.fixture
def results(traces, monkeypatch, tmp_path):
    """What the stages of both experiments leave: `tmp_path`/results."""
    monkeypatch.setattr(summary.stats, "bootstrap", partial(summary.stats.bootstrap, draws=20))
    monkeypatch.setattr(layout_report, "LAYOUT", tmp_path / "results" / "layout")
    for module in (ilgd_report, common):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


IOUS = {  # on six cases
    "none": (0.1, 0.1, 0.0, 0.2, 0.1, 0.1),
    "ilgd": (0.3, 0.2, 0.1, 0.3, 0.2, 0.2),
    "boxdiff": (0.1, 0.2, 0.1, 0.2, 0.1, 0.1),
    "ilgd_dga": (0.5, 0.6, 0.5, 0.6, 0.5, 0.7),
    "ilgd_tuned": (0.4, 0.4, 0.3, 0.5, 0.4, 0.4),
    "boxdiff_tuned": (0.2, 0.3, 0.2, 0.3, 0.2, 0.2),
    "ilgd_dga_tuned": (0.8, 0.8, 0.6, 1.0, 0.8, 0.8),
}


def reference():
    return torch.randn(30, 64, generator=torch.Generator().manual_seed(0))


def searched(folder, **found):
    for name, search in found.items():
        (folder / "search" / name).mkdir(parents=True)
        (folder / "search" / name / "search.json").write_text(json.dumps(search))


def test_the_report_of_layouts_compares_with_the_prompt_with_boxdiff_and_with_the_best_by_attention(
    results, traces, tmp_path
):
    folder = results / "layout"
    for name, ious in IOUS.items():
        trace = traces["none" if name == "none" else "ilgd"]
        score.save(scored(*ious, **COSTS, **LOOKS, **JUDGED), folder / "score" / name, trace)
    searched(folder, **SEARCHES, ilgd_dga=found_by(0.2, 0.3))
    tuned = ("ilgd", "boxdiff", "ilgd_dga")
    cases = {name: PARAMS.case(name) for name in ("none", *tuned)}
    block = PARAMS.experiment.model_copy(update={"cases": cases, "search": dict.fromkeys(tuned, ())})
    metrics = layout_report.write(tmp_path, replace(PARAMS, experiment=block), reference())
    assert list(metrics) == list(IOUS)
    both, ilgd, tuned = (metrics[name]["box_iou"] for name in ("ilgd_dga_tuned", "ilgd", "ilgd_tuned"))
    assert both["mean"] == pytest.approx(0.8) and both["n"] == 6
    assert both["diff"]["mean"] == pytest.approx(0.7) and both["diff_attention"]["mean"] == pytest.approx(0.4)
    assert tuned["diff_boxdiff"]["mean"] == pytest.approx((2.4 - 1.4) / 6), "tuned with tuned"
    assert [name for name, found in metrics.items() if "diff_boxdiff" in found["box_iou"]] == ["ilgd", "ilgd_tuned"]
    assert ilgd["diff_boxdiff"]["mean"] == pytest.approx((1.3 - 0.8) / 6), "defaults with defaults"
    assert metrics["ilgd_tuned"]["box_iou"]["diff_attention"] == {"mean": 0, "lo": 0, "hi": 0}
    gains = {name: found["iou_gain"] for name, found in metrics.items()}
    assert metrics["ilgd_dga_tuned"]["iou_gain_paper"] == gains["ilgd_dga_tuned"], "no variant of ours was drawn"
    assert gains["ilgd_dga_tuned"]["mean"] == pytest.approx(1) and gains["ilgd_tuned"]["mean"] == pytest.approx(0)
    assert all(set(found) == {"mean", "lo", "hi", "n"} for found in gains.values())
    table = pd.read_csv(tmp_path / "layout.csv")
    assert set(table.case) == set(IOUS) and {"diff_lo", "diff_attention_mean", "diff_boxdiff_hi"} <= set(table.columns)
    kinds = pd.read_csv(tmp_path / "layout_by_kind.csv")
    assert (kinds.groupby(["case", "kind"]).n.sum() == 6).all() and set(kinds.case) == set(IOUS)
    bought = metrics["ilgd_tuned"]["within_60"]  # of three settings, see SEARCHES
    assert (bought["mean"], bought["nfe"]) == (0.4, 0.2) and "within_60" not in metrics["ilgd"]
    assert not table.metric.str.startswith("within").any()
    search = pd.read_csv(tmp_path / "layout_search.csv")
    assert search[search.best].case.tolist() == ["ilgd", "boxdiff", "ilgd_dga"]
    assert "nfe" in search and not {"seconds", "peak_mb"} & {*search.columns}, "no numbers of the machine"
    pictures = {f"layout_{kind}" for kind in ("cases", "table", "looks", "pareto", "budget", "search", "attention")}
    assert {path.stem for path in tmp_path.glob("*.png")} == pictures


def test_a_variant_of_ours_is_no_papers_method(results, monkeypatch, tmp_path):
    """The best by attention may be ours; what `iou_gain_paper` compares with may not."""
    monkeypatch.setattr(layout_report, "draw", lambda *_: None)
    assert layout_report.VARIANTS == ("ilgd_share",)
    ious = IOUS | {"ilgd_share": IOUS["ilgd"], "ilgd_share_tuned": (0.6, 0.6, 0.5, 0.7, 0.6, 0.6)}
    for name, values in ious.items():
        score.save(scored(*values, **COSTS, **LOOKS, **JUDGED), results / "layout" / "score" / name)
    searched(results / "layout", **SEARCHES, ilgd_dga=found_by(0.2, 0.3), ilgd_share=found_by(0.2, 0.3))
    monkeypatch.setattr(layout_report, "SHOWN", ())
    tuned = ("ilgd", "boxdiff", "ilgd_dga", "ilgd_share")
    cases = {name: PARAMS.case(name) for name in ("none", *tuned)}
    block = PARAMS.experiment.model_copy(update={"cases": cases, "search": dict.fromkeys(tuned, ())})
    metrics = layout_report.write(tmp_path, replace(PARAMS, experiment=block), reference())
    gains = {name: (found["iou_gain"]["mean"], found["iou_gain_paper"]["mean"]) for name, found in metrics.items()}
    assert gains["ilgd_dga_tuned"] == pytest.approx((0.8 / 0.6 - 1, 0.8 / 0.4 - 1))
    assert gains["ilgd_share_tuned"] == pytest.approx((0, 0.6 / 0.4 - 1))
    assert gains["ilgd_tuned"] == pytest.approx((0.4 / 0.6 - 1, 0))


def test_the_report_of_ablations_has_a_line_per_point_and_metric(results, traces, tmp_path):
    names = ("box_iou", "recall", "contrast", "saturation", "kernel_distance")
    found = {
        "injection": {label: {name: entry(v, v / 2) for name in names} for label, v in (("0.0", 0.1), ("0.75", 0.4))},
        "many": {"many, none": {name: entry(0.2) for name in names}},
    }
    found["many"]["many, none"]["recall"] = dict.fromkeys(("mean", "lo", "hi"), float("nan")) | {
        "n": 0,
        "diff": dict.fromkeys(("mean", "lo", "hi"), float("nan")),
    }
    for name, points in found.items():
        (results / "ilgd" / "score" / name).mkdir(parents=True)
        (results / "ilgd" / "score" / name / "points.json").write_text(json.dumps(points))
    score.shown(traces["ilgd"]).save(results / "layout" / "score" / "ilgd" / "showcase")
    params = load(ablations.Experiment, "smoke")
    block = params.experiment.model_copy(update={"cases": {name: params.case(name) for name in found}})
    metrics = ilgd_report.write(tmp_path, replace(params, experiment=block))
    assert {name: list(points) for name, points in metrics.items()} == {k: list(v) for k, v in found.items()}
    table = pd.read_csv(tmp_path / "ilgd.csv").set_index(["ablation", "point", "metric"])
    assert len(table) == 3 * len(names)
    assert table.loc[("injection", "0.75", "box_iou"), ["mean", "diff_mean", "n"]].tolist() == [0.4, 0.2, 96]
    assert np.isnan(table.loc[("many", "many, none", "recall"), "mean"])
    assert {path.stem for path in tmp_path.glob("*.png")} == {"ilgd", "ilgd_overlap"}


def test_a_report_without_scores_says_how_to_make_them(results, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no rows of none, dga, .*: run `dvc repro report_layout`"):
        layout_report.write(tmp_path, PARAMS, reference())
