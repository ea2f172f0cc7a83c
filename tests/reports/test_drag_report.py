"""Reports on drags, combinations and curves: what is compared with what, what is drawn, what is left out."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from drawing import curve, lost
from flow_traces import ARRIVED, GUIDED, record, trace

from helpers.benchmarks.miniature_combined import load_combined
from helpers.benchmarks.miniature_drags import load_drags
from helpers.benchmarks.miniature_edits import edited
from helpers.experiments import combinations as combining
from helpers.experiments import dma, robustness
from helpers.judges.loading import load_judge
from helpers.params import load
from helpers.pipeline import score, summary
from helpers.pipeline.samples import Samples
from helpers.pipeline.score import judge_drags
from helpers.reports import combinations as combinations_report
from helpers.reports import common
from helpers.reports import dma as dma_report
from helpers.reports import robustness as robustness_report
from helpers.sampling.trace import Record, Trace

TEST = load_drags("test")


@pytest.fixture(scope="module")
def judge():
    return load_judge("judge")


def sources(cases):
    return torch.stack([case.drag.image() for case in cases])


def edits(cases):
    return torch.from_numpy(np.stack([edited(case) for case in cases])).permute(0, 3, 1, 2) / 255


def as_drawn(cases, images, /, **settings):
    """These pictures as if a run had drawn them, without CFG."""
    cost = {"seconds": 2.0, "nfe": 20.0, "peak_mb": 500.0, "eff_cfg": float("nan")}
    return Samples(images, [{"id": case.id, "seed": case.seed, **cost} for case in cases], [], settings=settings)


@pytest.fixture(scope="module")
def scored(judge):
    """The sources and the rendered edits of eight drags, one of every form."""
    part = TEST[:8]
    return {
        "none": judge_drags(as_drawn(part, sources(part)), part, judge),
        "full": judge_drags(as_drawn(part, edits(part)), part, judge),
    }


@pytest.fixture
def few_draws(monkeypatch):
    """Intervals from few resamples."""
    monkeypatch.setattr(summary.stats, "resampled", partial(summary.stats.resampled, draws=20))


def reference(n=30):
    return torch.randn(n, 64, generator=torch.Generator().manual_seed(0))


def with_cases(kind, *names):
    """The parameters with fewer cases."""
    params = load(kind, "smoke")
    return replace(
        params, experiment=params.experiment.model_copy(update={"cases": {c: params.case(c) for c in names}})
    )


@pytest.fixture(scope="module")
def drags():
    """Traces of two drags of the benchmark, the second first: places in a figure are not places in the run."""
    return {
        case: trace(GUIDED[case], *(replace(record(share, TEST[k].drag), index=k, seed=k) for k in (1, 0)))
        for case, share in ARRIVED.items()
    }


def test_the_report_of_drags_compares_with_the_baseline_and_with_displacement(
    drags, scored, few_draws, judge, monkeypatch, tmp_path
):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    own = load_drags("test", "drawn")[:5]
    redrawn = judge_drags(as_drawn(own, sources(own)), own, judge)
    found = {"none": scored["none"], "displacement": scored["none"], "full": scored["full"]}
    for case, one in (found | {"none_drawn": redrawn, "full_drawn": redrawn}).items():
        score.save(one, tmp_path / "dma" / "score" / case, drags.get(case))
    params = with_cases(dma.Experiment, "none", "displacement", "full", "none_drawn", "full_drawn")
    metrics = dma_report.write(tmp_path, params, reference())
    assert metrics["full"]["drag_md"]["diff"] == metrics["full"]["drag_md"]["diff_displacement"]
    assert metrics["full"]["drag_md"]["diff"]["hi"] < 0 == metrics["displacement"]["drag_md"]["diff"]["mean"]
    assert metrics["full_drawn"]["image_fidelity"]["n"] == 5 and metrics["full_drawn"]["edit_fidelity"]["n"] == 0
    forms = pd.read_csv(tmp_path / "dma_by_form.csv")
    assert set(forms[forms.case == "full"].form) == {"one", "two handles", "two objects", "partly outside"}
    assert set(pd.read_csv(tmp_path / "dma.csv").case) == set(metrics)
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == [
        "dma_cases",
        "dma_metrics",
        "dma_steps",
        "dma_table",
    ]


COMBINED = ("none", "source", "layout", "drag", "layout_drag")


def combined(name) -> Trace:
    """Two pictures, and where both act how far they agree."""
    made, pixels = Trace((0, 1)), np.random.default_rng(len(name)).integers(0, 256, (2, 64, 64, 3), np.uint8)
    curves = {"cosine.dga.dma": np.linspace(-0.5, 0.5, 4)} if name == "layout_drag" else {}
    for k, case in enumerate(load_combined("test")[:2]):
        layout = case.scene.layout.boxes_only()
        made.records.append(Record(k, case.prompt, case.seed, layout, None, pixels[k][None], pixels[k], {}, curves))
    made.timesteps, made.sigmas = [9], [0.9]
    return made


@pytest.fixture(scope="module")
def results(judge, tmp_path_factory):
    """What the stages of combinations leave: with a drag or a layout the true edit was drawn, otherwise the source."""
    folder, scenes = tmp_path_factory.mktemp("results"), load_combined("test")[:5]
    with pytest.MonkeyPatch.context() as patch:
        heads = {
            "judge": judge,
            "judge-clip": load_judge("judge-clip"),
            "quality": lambda images: images.mean((1, 2, 3)),
        }
        patch.setattr(score, "load_judge", heads.__getitem__)
        for case in [*COMBINED, "layout_drag_paper", "layout_paper", "drag_paper"]:
            chosen = load(combining.Experiment, "smoke").case(case)
            acting = {"drag", "layout"} & set(chosen.modules)
            images = (edits if acting else sources)([scene.drag for scene in scenes])
            drawn = as_drawn(scenes, images, sourced=combining.sourced(chosen))
            found = score.judged(drawn, "miniature_combined", "test")
            score.save(found, folder / "combinations" / "score" / case, combined(case.removesuffix("_paper")))
    return folder


@pytest.fixture
def combinations(results, few_draws, monkeypatch, tmp_path):
    """The report on some cases."""
    shutil.copytree(results, tmp_path / "results")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    return lambda *names: combinations_report.write(tmp_path, with_cases(combining.Experiment, *names), reference())


def test_the_report_of_combinations_compares_with_each_module_alone(combinations, tmp_path):
    names = ("none", "source", "layout", "drag", "layout_drag", "layout_paper", "drag_paper", "layout_drag_paper")
    metrics = combinations(*names)
    for name in ("layout_drag", "layout_drag_paper"):
        assert metrics[name]["box_iou"]["diff_layout"]["mean"] == 0 == metrics[name]["drag_md"]["diff_drag"]["mean"]
        assert metrics[name]["box_iou"]["diff"]["mean"] > 0 > metrics[name]["drag_md"]["diff"]["mean"]
    assert np.isnan(metrics["layout"]["drag_md"]["mean"]) and np.isnan(
        metrics["layout_drag"]["drag_md"]["diff_layout"]["mean"]
    )
    pictures = {f"combinations_{kind}" for kind in ("cases", "matrix", "table", "gradients", "cost")}
    assert {path.stem for path in tmp_path.glob("*.png")} == pictures
    table = pd.read_csv(tmp_path / "combinations.csv")
    assert set(table.case) == set(names) and {"diff_mean", "diff_layout_lo", "diff_drag_hi"} <= set(table.columns)


def test_only_cases_of_several_modules_are_compared_with_one_alone(combinations):
    metrics = combinations("none", "source", "layout", "drag", "layout_drag")
    compared = {case for case, found in metrics.items() for key in found["box_iou"] if key.startswith("diff_")}
    assert compared == {"layout_drag"}


def test_the_report_of_robustness_names_the_metric_of_each_module(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    curves = {
        "window_layout": robustness.Curve(module="layout", knob="window", values=(0.1, 1)),
        "detector_error": robustness.Curve(module="text", knob="guide", values=(0, 8)),
        "strength_drag": robustness.Curve(module="drag", knob="strength", values=(0.25, 1, 4)),
    }
    for (name, asked), metric in zip(curves.items(), ("box_iou", "relation_acc", "drag_md"), strict=True):
        (tmp_path / "robustness" / "score" / name).mkdir(parents=True)
        found = curve(asked.values, metric)
        found["none"][metric] |= lost(float("nan"))
        (tmp_path / "robustness" / "score" / name / "curve.json").write_text(json.dumps(found))
    params = replace(load(robustness.Experiment, "smoke"), experiment=robustness.Experiment(cases=curves))
    written = robustness_report.write(tmp_path, params)
    assert list(written) == list(curves) and list(written["strength_drag"]) == ["none", "0.25", "1", "4"]
    table = pd.read_csv(tmp_path / "robustness.csv")
    modules = {name: asked.module for name, asked in curves.items()}
    assert set(zip(table.curve, table.module, strict=True)) == set(modules.items())
    row = table[(table.curve == "strength_drag") & (table.value == "4") & (table.metric == "drag_md")].iloc[0]
    assert row["mean"] == pytest.approx(0.48) and row["diff_mean"] == 0 and row["n"] == 96
    assert table[(table.value == "none") & (table.metric == "drag_md")]["mean"].isna().all()
    assert {path.stem for path in tmp_path.glob("*.png")} == {"robustness", "robustness_strength"}
