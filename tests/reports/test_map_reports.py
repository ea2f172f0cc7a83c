"""The report of guided maps: from scores to numbers and figures that can be read."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from drawing import illegible

from helpers.experiments import guided_factors as guided_experiment
from helpers.figures.guided_factors import maps_grid
from helpers.judges.base import Found
from helpers.params import load
from helpers.pipeline import score, summary
from helpers.pipeline.score import Scored
from helpers.reports import common
from helpers.reports import guided_factors as guided_report

COSTS = {"nfe": 20.0, "seconds": 2.0, "peak_mb": 500.0, "eff_cfg": 5.0, "kernel_distance": 0.1}
REFERENCE = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
random = np.random.default_rng(0)


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Where the scores of cases go."""
    monkeypatch.setattr(summary.stats, "bootstrap", partial(summary.stats.bootstrap, draws=20))
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def scored(rows, found, seed, parts):
    features = torch.randn(len(rows), 64, generator=torch.Generator().manual_seed(seed))
    pictures = random.integers(0, 256, (4, 64, 64 * parts, 3), np.uint8)
    return Scored(rows, found, features, pictures[: len(rows)])


def on_boxes(scene):
    things = []
    for region, thing in zip(scene.layout.regions, scene.things, strict=True):
        box = tuple(round(64 * v) for v in region.box)
        mask = np.zeros((64, 64), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        things.append(Found(thing.kind, thing.color, thing.pattern, 0.9, box, mask))
    return things


def test_guided_maps_are_compared_on_their_own_boxes(place, tmp_path):
    params = load(guided_experiment.Experiment, "smoke")
    ious = {"none": 0.1, "picture_ilgd_dga": 0.8, "map": 0.2, "map_arranged_5": 0.9}
    ious |= {"none_free": 0.15, "picture_ilgd_dga_free": 0.6, "map_arranged_5_free": 0.65}
    for k, (case, iou) in enumerate(ious.items()):
        scenes = guided_experiment.asked(params, params.case(case))
        rows = [{"id": s.id, "seed": s.seed, "box_iou": iou, "recall": 1.0, "color_acc": 1.0, **COSTS} for s in scenes]
        rows = [row | {"extra_objects": 0.0} for row in rows]
        found = scored(rows, [on_boxes(scene) for scene in scenes], k, 2)
        if not case.startswith("map"):
            found.pictures[:, :, :64] = 0  # without a map
        score.save(found, place / "guided_factors" / "score" / case)
    cases = {case: params.experiment.cases[case] for case in ious}
    own = replace(params, experiment=params.experiment.model_copy(update={"cases": cases}))
    metrics = guided_report.write(tmp_path, own, REFERENCE)
    assert list(metrics) == list(ious) and metrics["map"]["inside"]["mean"] == 1
    best, free = (metrics[case]["box_iou"] for case in ("map_arranged_5", "map_arranged_5_free"))
    assert best["diff"]["mean"] == pytest.approx(0.8) and best["diff_best"]["mean"] == pytest.approx(0.1)
    assert free["diff"]["mean"] == pytest.approx(0.5) and free["diff_best"]["mean"] == pytest.approx(0.05)
    assert {"diff_best_lo", "diff_hi"} <= set(pd.read_csv(tmp_path / "guided_factors.csv").columns)
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {f"guided_factors_{kind}" for kind in ("cost", "cases", "table")}


MESSAGE = "What is shown here in a message of some length with numbers such as 0.78 and 0.13 of several cases, and on"
NOTE = "mini-sd, 20 DDIM steps, CFG 5; the first prompts, the same noise in a row"


def test_maps_and_pictures_can_be_read():
    scenes = guided_experiment.asked(*(lambda p: (p, p.case("map")))(load(guided_experiment.Experiment, "smoke")))
    layouts = [scene.layout.boxes_only() for scene in scenes]
    names = [guided_report.NAMES[case] for case in guided_report.SHOWN]
    strips = {name: random.integers(0, 256, (len(layouts), 64, 128, 3), np.uint8) for name in names}
    strips[names[0]][:, :, :64] = 0
    rows = {name: [{"box_iou": 0.5}] * len(layouts) for name in names}
    fig = maps_grid(strips, rows, layouts, MESSAGE, NOTE)
    assert len(fig.axes) == len(layouts) * (2 * len(names) - 1), "no panel for a map that is not there"
    assert not illegible(fig)
