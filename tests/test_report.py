"""Reports: what is published where, and that an error leaves what was there."""

import json

import pytest

from helpers import report
from helpers.reports import common


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
    assert json.loads((results / "dga" / "metrics.json").read_text()) == {"none": {"recall": {"mean": 0.25}}}
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
    assert json.loads((results / "dga" / "metrics.json").read_text())["none"]["recall"]["mean"] == 0.25
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
    for place, name in enumerate(report.REPORTS):
        common.publish(name, drawn(place / 10))
    report.main()
    gathered = json.loads((figures / "metrics.json").read_text())
    assert list(gathered) == list(report.REPORTS)
    assert gathered["dma"] == {"none": {"recall": {"mean": 0.2}}}
