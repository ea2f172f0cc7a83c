"""Layout methods and ablations of iLGD from scores to figures: what is best, what differs, what is drawn."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.colors import to_hex
from test_figures import drawn, entry
from test_metrics import case

from helpers import score, summary
from helpers.conditions import Layout, Region
from helpers.figures import BASE, LESS_IS_BETTER, METHOD
from helpers.guidance import CFG
from helpers.guidance.ilgd import ILGD
from helpers.guidance.watch import Watch
from helpers.layout_figures import GUIDED, front, pareto_plot, points_plot, said, search_plot, search_table
from helpers.miniature.benchmark import load_captioned
from helpers.params import load
from helpers.paths import ROOT
from helpers.reports import ilgd as ilgd_report
from helpers.reports import layout as layout_report
from helpers.reports.layout import best_attention, by_attention, by_kind, gain, kinds_of
from helpers.sampling import sample
from helpers.score import Scored
from helpers.trace import Trace

PARAMS = load("smoke")
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
    without = {name for name in PARAMS.layout.cases if not by_attention(name)}
    assert without == {"none", "dga", "ilgd_dga"} == {n for n in PARAMS.layout.cases if not by_attention(f"{n}_tuned")}


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


# --- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], [True, True, True]),
        ([1, 2, 3], [3, 2, 1], [True, False, False]),
        ([1, 1, 2], [1, 2, 2], [False, True, False]),
        ([1, 1, 2], [2, 2, 1], [True, True, False]),  # equal ones beat each other not
        ([5], [0], [True]),
    ],
)
def test_the_front_holds_what_no_other_one_beats(x, y, expected):
    assert front(np.array(x), np.array(y)).tolist() == expected


def placed(iou, far, looks, seconds):
    numbers = {"box_iou": iou, "kernel_distance": far, "clip_iqa": looks, "seconds": seconds}
    return {name: entry(value) for name, value in numbers.items()}


PLACED = {  # the defaults of iLGD are beaten everywhere, the rest nowhere
    "none": placed(0.1, 0.2, 0.9, 1),
    "ilgd": placed(0.2, 0.9, 0.2, 9),
    "ilgd_tuned": placed(0.4, 0.3, 0.5, 2),
    "dga_tuned": placed(0.6, 0.4, 0.4, 4),
}


@pytest.fixture(scope="module")
def pareto():
    fig = pareto_plot(PLACED, "tiny", by_attention)
    drawn(fig)
    return fig


def test_the_pareto_plot_has_a_panel_for_every_cost(pareto):
    assert [ax.get_xlabel() for ax in pareto.axes] == ["kernel_distance ↓", "clip_iqa ↑", "seconds ↓"]
    assert [ax.get_xscale() for ax in pareto.axes] == ["symlog", "linear", "symlog"]
    assert {ax.get_ylabel() for ax in pareto.axes} == {"box_iou ↑"} and pareto.get_suptitle() == "tiny"


def test_the_pareto_plot_joins_what_nothing_beats(pareto):
    for ax, costs in zip(pareto.axes, ([0.2, 0.3, 0.4], [0.9, 0.5, 0.4], [1, 2, 4]), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([costs, [0.1, 0.4, 0.6]], 1))


def test_the_pareto_plot_tells_defaults_tuned_and_dga_apart(pareto):
    for ax in pareto.axes:
        points = [line for line in ax.lines if line.get_marker() == "o"]
        assert [to_hex(line.get_color()) for line in points] == [BASE, METHOD, METHOD, GUIDED]
        faces = ["#ffffff", "#ffffff", METHOD, GUIDED]
        assert [to_hex(line.get_markerfacecolor()) for line in points] == faces
        assert [text.get_text() for text in ax.texts] == ["none", "ilgd", "dga"]
        assert [text.xy[1] for text in ax.texts] == [0.1, 0.4, 0.6], "iLGD's defaults have no name"


def test_a_cost_that_does_not_exist_leaves_its_case_out():
    metrics = PLACED | {"other_tuned": placed(0.9, 0.1, float("nan"), 1)}
    fig = pareto_plot(metrics, "tiny", by_attention)
    drawn(fig)
    assert [len(ax.texts) for ax in fig.axes] == [4, 3, 4]


def found_by(*ious, best=0):
    """A search that tried as many scales."""
    tried = [{"scale": 10.0 * k} if k else {} for k in range(len(ious))]
    numbers = ("recall", "kernel_distance", "attribute_acc", "seconds")
    entries = [
        {"options": options, "box_iou": entry(iou)} | {name: entry(iou / 2) for name in numbers}
        for options, iou in zip(tried, ious, strict=True)
    ]
    return {"best": tried[best], "tried": entries}


SEARCHES = {"ilgd": found_by(0.2, 0.4, 0.3, best=1), "boxdiff": found_by(0.5, 0.1)}


def test_the_table_of_the_search_marks_the_best():
    table = search_table(SEARCHES)
    assert table.options.tolist() == ["defaults", "scale 10.0", "scale 20.0", "defaults", "scale 10.0"]
    assert table.best.tolist() == [False, True, False, True, False] and table.case.value_counts()["ilgd"] == 3
    assert table.box_iou.tolist() == [0.2, 0.4, 0.3, 0.5, 0.1] and table.recall[1] == 0.2
    assert {"kernel_distance", "attribute_acc", "seconds"} <= set(table.columns)


def test_options_are_said_in_words():
    assert said({}) == "defaults" and said({"scale": 2.0, "window": [0.0, 0.5]}) == "scale 2.0, window [0.0, 0.5]"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_search_plot_has_a_panel_per_case_and_the_best_in_blue(count):
    searches = dict(zip(("ilgd", "boxdiff", "dga", "directed"), [*SEARCHES.values()] * 2, strict=True))
    searches = dict(list(searches.items())[:count])
    fig = search_plot(searches, "tiny, dev split")
    drawn(fig)
    assert [ax.axison for ax in fig.axes] == [k < count for k in range(2 * -(-count // 2))]
    assert fig.get_suptitle() == "box IoU, tiny, dev split"
    assert [ax.get_title() for ax in fig.axes[:count]] == list(searches)
    for ax, found in zip(fig.axes, searches.values(), strict=False):
        assert [label.get_text() for label in ax.get_yticklabels()] == [said(t["options"]) for t in found["tried"]]
        points = [line for line in ax.lines if line.get_marker() == "o"]
        assert [line.get_xdata()[0] for line in points] == [tried["box_iou"]["mean"] for tried in found["tried"]]
        assert [line.get_color() == METHOD for line in points] == [
            t["options"] == found["best"] for t in found["tried"]
        ]
        spans = [line.get_xdata() for line in ax.lines if line.get_marker() != "o"]
        np.testing.assert_allclose(spans[0], [found["tried"][0]["box_iou"][key] for key in ("lo", "hi")])
        assert ax.yaxis_inverted(), "the first stands above"


ABLATIONS = {
    "injection": {"0.0": placed(0.1, 0.2, 0.9, 1), "0.75": placed(0.3, 0.3, 0.8, 1), "6.0": placed(0.4, 0.9, 0.1, 1)},
    "loss_strength": {"0.32": placed(0.2, 0.2, 0.9, 2), "10.0": placed(0.5, 0.5, 0.5, 2)},
}


def test_the_plot_of_points_has_a_row_per_ablation_and_a_column_per_metric():
    fig = points_plot(ABLATIONS, ("box_iou", "kernel_distance"), "tiny")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, 2))
    assert [row[0].get_title(loc="left") for row in grid] == ["injection", "loss strength"]
    assert [ax.get_xlabel() for ax in grid[1]] == ["box_iou ↑", "kernel_distance ↓"]
    assert [ax.get_xscale() for ax in grid[1]] == ["linear", "symlog"]
    for row, points in zip(grid, ABLATIONS.values(), strict=True):
        assert [label.get_text() for label in row[0].get_yticklabels()] == list(points)
        for ax, name in zip(row, ("box_iou", "kernel_distance"), strict=True):
            means = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
            assert means == [entries[name]["mean"] for entries in points.values()]
            assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first stands above"
    colors = [{line.get_color() for ax in row for line in ax.lines} for row in grid]
    assert all(len(own) == 1 for own in colors) and colors[0] != colors[1]


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
    made = {"none": [], "ilgd": [ILGD([LAYOUT] * 2)]}
    recorded = {name: Trace([0, 1]) for name in made}
    for name, trace in recorded.items():
        guidance = [CFG(3), *made[name], Watch([LAYOUT] * 2)]
        sample(tiny, [LAYOUT.prompt] * 2, guidance, steps=10, seeds=(3, 4), trace=trace)
    return recorded


@pytest.fixture
def results(traces, monkeypatch, tmp_path):
    """What the stages of both experiments leave: `tmp_path`/results."""
    monkeypatch.setattr(summary.stats, "bootstrap", partial(summary.stats.bootstrap, draws=20))
    monkeypatch.setattr(layout_report, "LAYOUT", tmp_path / "results" / "layout")
    monkeypatch.setattr(ilgd_report, "RESULTS", tmp_path / "results")
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
        score.save(scored(*ious, **COSTS, **LOOKS, **JUDGED), folder / "score" / name)
        traces["none" if name == "none" else "ilgd"].save(folder / "sample" / name / "trace")
    searched(folder, **SEARCHES, ilgd_dga=found_by(0.2, 0.3))
    block = PARAMS.layout.model_copy(
        update={"run": ("none", "ilgd", "boxdiff", "ilgd_dga"), "tuned": ("ilgd", "boxdiff", "ilgd_dga")}
    )
    metrics = layout_report.write(tmp_path, PARAMS.model_copy(update={"layout": block}), reference())
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
    search = pd.read_csv(tmp_path / "layout_search.csv")
    assert search[search.best].case.tolist() == ["ilgd", "boxdiff", "ilgd_dga"]
    pictures = {f"layout_{kind}" for kind in ("cases", "table", "looks", "pareto", "search", "attention")}
    assert {path.stem for path in tmp_path.glob("*.png")} == pictures


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
        (results / "ilgd" / name).mkdir(parents=True)
        (results / "ilgd" / name / "points.json").write_text(json.dumps(points))
    traces["ilgd"].save(results / "layout" / "sample" / "ilgd" / "trace")
    block = PARAMS.ilgd.model_copy(update={"run": ("injection", "many")})
    metrics = ilgd_report.write(tmp_path, PARAMS.model_copy(update={"ilgd": block}))
    assert {name: list(points) for name, points in metrics.items()} == {k: list(v) for k, v in found.items()}
    table = pd.read_csv(tmp_path / "ilgd.csv").set_index(["ablation", "point", "metric"])
    assert len(table) == 3 * len(names)
    assert table.loc[("injection", "0.75", "box_iou"), ["mean", "diff_mean", "n"]].tolist() == [0.4, 0.2, 96]
    assert np.isnan(table.loc[("many", "many, none", "recall"), "mean"])
    assert {path.stem for path in tmp_path.glob("*.png")} == {"ilgd", "ilgd_overlap"}


def test_a_report_without_scores_says_how_to_make_them(results, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no scores: run `dvc repro`"):
        layout_report.write(tmp_path, PARAMS, reference())


def test_the_pipeline_makes_whatever_the_reports_read():
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    deps = {dep for name in ("report_layout", "report_ilgd", "report_miniature") for dep in stages[name]["deps"]}
    tuned = [f"{name}_tuned" for name in values["layout"]["tuned"]]
    needed = {f"results/layout/score/{name}" for name in (*values["layout"]["run"], *tuned)}
    needed |= {f"results/layout/search/{name}" for name in values["layout"]["tuned"]}
    needed |= {f"results/layout/sample/{name}" for name in (*layout_report.SHOWN, "ilgd")}
    needed |= {f"results/ilgd/{name}" for name in values["ilgd"]["run"]}
    assert needed == {dep for dep in deps if dep.startswith(("results/layout", "results/ilgd"))}
    assert "results/quality" in deps and values["layout"]["run"] == list(values["layout"]["cases"])
    assert values["layout"]["tuned"] == list(values["layout"]["search"]) == values["layout"]["run"][1:]
    assert values["ilgd"]["run"] == list(values["ilgd"]["ablations"])


def test_less_of_every_cost_is_better():
    assert {"nfe", "seconds", "peak_mb"} <= set(layout_report.LOOKS) & LESS_IS_BETTER
