"""Reports: what is published where, and that an error leaves what was there."""

import json

import numpy as np
import pytest
import torch

from helpers.conditions import Layout, Region
from helpers.judges.base import Found
from helpers.pipeline import report
from helpers.pipeline.score import Scored, load_score, save, shown, whole
from helpers.reports import common
from helpers.sampling.trace import Record, Trace


@pytest.fixture
def places(monkeypatch, tmp_path):
    """figures/ and results/ in a folder of their own."""
    figures, results = tmp_path / "figures", tmp_path / "results"
    for module in (common, report):
        monkeypatch.setattr(module, "FIGURES", figures)
        monkeypatch.setattr(module, "RESULTS", results)
    return figures, results


def drawn(mean: float):
    def write(folder):
        (folder / "dga.png").write_text(f"picture of {mean}")
        return {"none": {"recall": {"mean": mean}}}

    return write


def test_pictures_and_numbers_are_published(places):
    figures, results = places
    common.publish("dga", drawn(0.25))
    assert (figures / "dga.png").read_text() == "picture of 0.25"
    assert json.loads((results / "metrics" / "dga.json").read_text()) == {"none": {"recall": {"mean": 0.25}}}
    assert [path.name for path in figures.parent.iterdir() if path.name.startswith("figures")] == ["figures"]


def test_an_error_leaves_the_old_ones(places):
    figures, results = places
    common.publish("dga", drawn(0.25))

    def broken(folder):
        drawn(0.5)(folder)
        raise FileNotFoundError("no scores")

    with pytest.raises(FileNotFoundError, match="no scores"):
        common.publish("dga", broken)
    assert (figures / "dga.png").read_text() == "picture of 0.25"
    assert json.loads((results / "metrics" / "dga.json").read_text())["none"]["recall"]["mean"] == 0.25
    common.publish("dga", drawn(0.75))
    assert (figures / "dga.png").read_text() == "picture of 0.75", "what the error left is cleared away"


def test_a_report_keeps_the_pictures_of_the_others(places):
    figures, _ = places
    figures.mkdir()
    (figures / "layout.png").write_text("another's")
    common.publish("dga", drawn(0.25))
    assert sorted(path.name for path in figures.iterdir()) == ["dga.png", "layout.png"]


def test_all_numbers_are_gathered(places):
    figures, _ = places
    for place, name in enumerate(report.reports()):
        metric = report.MAIN.get(name, "other")
        common.publish(name, lambda folder, metric=metric, place=place: {"full": {metric: {"mean": place / 10}}})
    report.main()
    gathered = json.loads((figures / "metrics.json").read_text())
    assert list(gathered) == report.reports() and {"dga", "ilgd", "miniature"} <= set(gathered)
    assert gathered["dma"] == {"full": {"drag_md": {"mean": 0.2}}}
    assert json.loads((figures / "summary.json").read_text())["dma"] == {"drag_md": {"full": 0.2}}


def test_a_report_that_is_not_there_is_named(places):
    common.publish("dga", drawn(0.25))
    with pytest.raises(FileNotFoundError, match="no numbers of dca, dma, .*: run `dvc repro report_dca`"):
        report.main()


def test_a_report_is_of_every_case_and_of_no_other(places):
    _, results = places
    for name in ("none", "full", "old"):
        (results / "dga" / "score" / name).mkdir(parents=True)
    found = common.rows_of("dga", ["none", "full"])
    assert found == {name: results / "dga" / "score" / name for name in ("none", "full")}
    assert {path.name for path in (results / "dga" / "score").iterdir()} == {"none", "full"}, "the old one is deleted"
    with pytest.raises(FileNotFoundError, match="has no rows of coverage: run `dvc repro report_dga`"):
        common.rows_of("dga", ["none", "coverage", "full"])


def test_scores_are_kept_without_masks(tmp_path):
    found = Found("car", "red", "plain", 0.75, (1, 2, 30, 40), np.ones((64, 64), bool))
    rows = [
        {"id": "one", "seed": 2**32 - 1, "recall": 1.0, "eff_cfg": None},
        {"id": "two", "seed": 7, "recall": np.nan, "eff_cfg": 5.0},
    ]
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    save(Scored(rows, [[], [found, found]], torch.linspace(-1, 1, 128).view(2, 64), pictures), tmp_path / "full")
    stored = load_score(tmp_path / "full")
    assert [list(row) for row in stored.rows] == [list(row) for row in rows]
    assert stored.rows[0]["id"] == "one" and stored.rows[0]["seed"] == 2**32 - 1 and stored.rows[0]["recall"] == 1
    assert np.isnan(stored.rows[1]["recall"]) and np.isnan(stored.rows[0]["eff_cfg"])
    assert stored.found[0] == [] and len(stored.found[1]) == 2
    assert stored.found[1][0].box == found.box and stored.found[1][0].score == 0.75
    assert (stored.found[1][0].kind, stored.found[1][0].color, stored.found[1][0].pattern) == ("car", "red", "plain")
    torch.testing.assert_close(stored.features, torch.linspace(-1, 1, 128).view(2, 64), atol=1e-3, rtol=0)
    assert (stored.pictures == pictures).all()


def test_a_showcase_keeps_frames_and_maps_of_one_image(tmp_path):
    regions = [Region(phrase=name, box=(0, 0, 0.5, 0.5)) for name in ("red car", "blue fish")]
    trace = Trace(range(3))
    trace.timesteps, trace.sigmas, trace.settings = [9, 1], [0.9, 0.1], {"steps": 2}
    for k in range(3):
        layout = Layout(prompt="a red car and a blue fish", regions=tuple(regions[: 1 + (k > 0)]))
        frames, curves = np.full((2, 8, 8, 3), k, np.uint8), {"dga": np.float32([k, 1])}
        trace.records.append(
            Record(k, layout.prompt, k, layout, None, frames, frames[0], {"dga.masks": frames[..., 0]}, curves)
        )
    shown(trace).save(tmp_path / "showcase")
    kept = Trace.load(tmp_path / "showcase")
    assert whole(kept) == 1, "the first with several regions"
    assert (kept.records[1].frames == 1).all() and "dga.masks" in kept.records[1].maps
    for k, record in enumerate(kept.records):
        assert (record.final == k).all() and record.curves["dga"][0] == k and record.layout == trace.records[k].layout
    assert not kept.records[2].maps and len(trace.records[2].maps) == 1, "the trace itself stays as it is"
