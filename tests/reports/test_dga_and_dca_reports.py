"""The reports of layouts by DGA and of prompts by DCA: with a handful of images, and with numbers that do not exist."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from dga_traces import ASKED
from dga_traces import record as recorded
from drawing import curve

from helpers.benchmarks.miniature import load_captioned
from helpers.experiments import dca, dga
from helpers.figures import style
from helpers.params import load
from helpers.pipeline import score, summary
from helpers.pipeline.score import Scored
from helpers.reports import common
from helpers.reports import dca as dca_report
from helpers.reports import dga as dga_report

JUDGED = {
    "nfe": 20.0, "seconds": 2.0, "peak_mb": 500.0, "eff_cfg": 5.0, "mask_iou": 0.3, "recall": 0.5, "color_acc": 0.5,
    "background_acc": 1.0, "extra_objects": 0.0, "size_error": 0.1, "distance_error": 0.1, "attribute_acc": 0.5,
    "clip_score": 60.0, "contrast": 0.2, "saturation": 0.4, "relation_acc": float("nan"),
}  # fmt: skip


def scored(scenes, iou, again=(), pictures=None):
    """Scores of some cases; those whose place is in `again` come of another try."""
    rows = [
        {"id": scene.id, "seed": scene.seed + 1000 * (k in again), "box_iou": iou + k / 100, **JUDGED}
        for k, scene in enumerate(scenes)
    ]
    features = torch.randn(len(rows), 64, generator=torch.Generator().manual_seed(round(100 * iou)))
    return Scored(rows, [[] for _ in rows], features, pictures)


def reference():
    return torch.randn(30, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def traces(tiny, segmenter):
    return {case: recorded(tiny, segmenter, *asked) for case, asked in ASKED.items()}


@pytest.fixture
def results(monkeypatch, tmp_path):
    monkeypatch.setattr(summary.stats, "resampled", partial(summary.stats.resampled, draws=20))
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(dga_report, "DGA", tmp_path / "results" / "dga")
    return tmp_path / "results"


@pytest.fixture
def titles(monkeypatch):
    """Figure -> its message, of all that are saved."""
    found = {}

    def noted(pictures, folder):
        found.update({name: fig.get_suptitle() or fig.texts[0].get_text() for name, fig in pictures.items()})
        style.save(pictures, folder)

    for report in (dga_report, dca_report):
        monkeypatch.setattr(report, "save", noted)
    return found


def test_the_report_of_dga_draws_its_figures_and_says_its_numbers(results, titles, traces, tmp_path):
    params, scenes = load(dga.Experiment, "smoke"), load_captioned("test", "short")[:4]
    for k, case in enumerate(params.experiment.cases):
        shown = traces.get(case, traces["full"])
        score.save(scored(scenes, 0.1 + 0.05 * k), results / "dga" / "score" / case, shown)
    (results / "dga" / "sweep").mkdir()
    sweep = {"0": curve([0], "box_iou")["none"], **curve([0.5, 1], "box_iou")}
    del sweep["none"]
    (results / "dga" / "sweep" / "strength.json").write_text(json.dumps(sweep))
    metrics = dga_report.write(tmp_path, params, reference())
    kinds = ("cases", "steps", "metrics", "table", "strength")
    assert {path.stem for path in tmp_path.glob("*.png")} == {f"dga_{kind}" for kind in kinds}
    ious = [metrics[case]["box_iou"]["mean"] for case in ("none", "full")]
    assert titles["dga_metrics"] == "DGA and its parts: box IoU {:.2f} unguided, {:.2f} with DGA".format(*ious)
    assert titles["dga_strength"] == "Of the strengths tried, 0.5 has the largest box IoU (0.50)"


def test_the_report_of_dca_draws_its_figures_where_no_prompt_has_a_relation(results, titles, traces, tmp_path):
    params = load(dca.Experiment, "smoke")
    pictures = np.zeros((4, 64, 64, 3), np.uint8)
    for k, (case, chosen) in enumerate(params.experiment.cases.items()):
        scenes = load_captioned(chosen.split, chosen.caption)[:4]
        again = (1, 3) if chosen.tries > 1 else ()
        found = scored(scenes, 0.1 + k / 100, again, pictures)
        for row in found.rows[:2]:
            row["attribute_acc"] = 1.0 if again else 0.5
        score.save(found, results / "dca" / "score" / case, traces["none" if chosen.method is None else "full"])
    metrics = dca_report.write(tmp_path, params, reference())
    assert metrics["full_again"]["attribute_acc"]["mean"] == 0.75 and metrics["full"]["relation_acc"]["n"] == 0
    kinds = ("cases", "metrics", "table", "objects", "again", "budget")
    assert {path.stem for path in tmp_path.glob("*.png")} == {f"dca_{kind}" for kind in kinds}
    said = titles["dca_again"].replace("\n", " ")
    assert said.endswith("unguided 2 (1 better, 0 worse), guided 2 (1 better, 0 worse)")
    means = pd.read_csv(tmp_path / "dca_by_objects.csv")
    assert set(means.guidance.fillna("none")) == {"none", "full"} and {"long", "short"} <= set(means.caption)
