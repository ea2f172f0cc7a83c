"""Free boxes from scores to figures: what is added to the rows, what differs, what is drawn."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.benchmarks.miniature_free import load_free
from helpers.experiments import free as experiment
from helpers.guidance.cfg import CFG
from helpers.judges.base import Found
from helpers.params import load
from helpers.pipeline import score, summary
from helpers.pipeline.score import Scored
from helpers.reports import common
from helpers.reports import free as report
from helpers.sampling.attention_maps import AttentionMaps
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace

PARAMS = load(experiment.Experiment, "smoke")
SCENES = load_free("test")[:6]
COSTS = {"nfe": 20.0, "seconds": 2.0, "peak_mb": 500.0, "eff_cfg": 5.0}


def placed(scene, off):
    """Every object of a scene exactly on its box, moved by so many pixels to the side where there is room."""
    things = []
    for region, thing in zip(scene.layout.regions, scene.things, strict=True):
        x0, y0, x1, y1 = (round(64 * v) for v in region.box)
        shift = off if x1 + off <= 64 else -off
        mask = np.zeros((64, 64), bool)
        mask[y0:y1, x0 + shift : x1 + shift] = True
        things.append(Found(thing.kind, thing.color, thing.pattern, 0.9, (x0 + shift, y0, x1 + shift, y1), mask))
    return things


def scored(iou, off, absent=False):
    rows = [{"id": s.id, "seed": s.seed, "box_iou": iou, "recall": 0.0 if absent else 1.0, **COSTS} for s in SCENES]
    features = torch.randn(len(rows), 64, generator=torch.Generator().manual_seed(round(100 * iou)))
    return Scored(rows, [[] if absent else placed(scene, off) for scene in SCENES], features)


@pytest.fixture
def results(tiny, monkeypatch, tmp_path):
    """What the stages leave of four cases."""
    monkeypatch.setattr(summary.stats, "bootstrap", partial(summary.stats.bootstrap, draws=20))
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    layouts = [scene.layout.boxes_only() for scene in SCENES[:2]]
    trace = Trace([0, 1])
    guidance = [CFG(3), AttentionMaps(layouts=layouts)]
    sample(tiny, [layout.prompt for layout in layouts], guidance, steps=4, seeds=(3, 4), trace=trace)
    made = {"none": scored(0.1, 0, True), "dga": scored(0.4, 4), "dga_free": scored(0.5, 2), "ilgd": scored(0.3, 6)}
    for case, found in made.items():
        score.save(found, tmp_path / "results" / "free" / "score" / case, trace)
    return replace(PARAMS, experiment=PARAMS.experiment.model_copy(update={"cases": dict.fromkeys(made)}))


def test_the_report_shows_what_lies_inside_beside_what_can_be_reached(results, tmp_path):
    reference = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    metrics = report.write(tmp_path, results, reference)
    assert list(metrics) == ["none", "dga", "dga_free", "ilgd"]
    ceilings = {entries["ceiling"]["mean"] for entries in metrics.values()}
    assert len(ceilings) == 1 and 0.4 < ceilings.pop() < 0.95
    inside = {case: entries["inside"]["mean"] for case, entries in metrics.items()}
    assert inside["none"] == 0 and 1 > inside["dga_free"] > inside["dga"] > inside["ilgd"] > 0.5
    assert metrics["none"]["off_centre"]["n"] == 0, "nothing was found"
    free = metrics["dga_free"]["box_iou"]
    assert free["diff"]["mean"] == pytest.approx(0.4)
    assert free["diff_dga"]["mean"] == free["diff_boxes"]["mean"] == pytest.approx(0.1)
    assert [case for case in metrics if "diff_boxes" in metrics[case]["box_iou"]] == ["dga_free"]
    table = pd.read_csv(tmp_path / "free.csv")
    assert set(table.case) == set(metrics) and {"diff_lo", "diff_dga_mean", "diff_boxes_hi"} <= set(table.columns)
    assert {path.name for path in tmp_path.glob("*.png")} == {"free_cases.png", "free_table.png"}


def test_rows_of_other_layouts_are_refused():
    found = scored(0.4, 2)
    found.rows[1]["id"] = "test-001"
    with pytest.raises(ValueError, match="the rows have 'test-001' in the place of 'free-test-001'"):
        report.judge({"dga": found}, SCENES)


def test_every_case_with_cores_is_told_from_the_same_with_boxes():
    assert set(report.PLAIN) | set(report.PLAIN.values()) <= set(PARAMS.experiment.cases)
    assert set(report.NAMES) == set(PARAMS.experiment.cases), "every case has a name in words"
