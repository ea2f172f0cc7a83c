"""Figures show words for cases, knobs and ablations."""

import pytest

from helpers.experiments import combinations, dca, dga, dma, free, guided_factors, ilgd, layout, robustness, sbpc
from helpers.params import load
from helpers.reports import combinations as combinations_report
from helpers.reports import dca as dca_report
from helpers.reports import dga as dga_report
from helpers.reports import dma as dma_report
from helpers.reports import free as free_report
from helpers.reports import guided_factors as guided_report
from helpers.reports import ilgd as ilgd_report
from helpers.reports import layout as layout_report
from helpers.reports import robustness as robustness_report
from helpers.reports import sbpc as sbpc_report


@pytest.mark.parametrize(
    ("experiment", "names"),
    [
        (dga, dga_report.NAMES),
        (dca, dca_report.NAMES),
        (dma, dma_report.NAMES),
        (layout, layout_report.NAMES),
        (free, free_report.NAMES),
        (ilgd, ilgd_report.HEADINGS),
        (sbpc, sbpc_report.NAMES),
        (guided_factors, guided_report.NAMES),
    ],
)
def test_names_are_of_cases_and_no_two_have_one(experiment, names):
    """A case without a name is called by its id."""
    cases = load(experiment.Experiment, "smoke").experiment.cases
    assert set(names) <= set(cases) and len({*names.values()}) == len(names)


def test_every_curve_has_a_title_of_its_own_and_an_axis():
    params = load(robustness.Experiment, "smoke")
    titles = {robustness_report.knob(params.case(curve)) for curve in params.experiment.cases}
    assert len(titles) == len(params.experiment.cases)


def test_points_of_ablations_are_said_in_words():
    found = ilgd_report.rows(
        {
            "windows": {"0.02 0.12, 0.02 0.5": {"recall": 1}},
            "many": {"many, ilgd_dga": {"recall": 2}},
            "sizes": {"48 96, none": {"recall": 3}},
            "mine": {"0.5": {"recall": 4}},
        }
    )
    headings = ["Steps of injection; of the loss", "Five and six objects", "Height × width of pictures", "Mine"]
    assert [row for row, entries in found.items() if not entries] == headings
    points = ["2–12; 2–50 %", "iLGD with DGA, 5 or 6 objects", "48 × 96: unguided", "Mine: 0.5"]
    assert {row: entries["recall"] for row, entries in found.items() if entries} == dict(zip(points, (1, 2, 3, 4)))


def test_every_point_of_an_ablation_is_a_row():
    params = load(ilgd.Experiment, "smoke")
    cases = load(layout.Experiment, "smoke").experiment.cases
    points = {name: ilgd.points(of, cases) for name, of in params.experiment.cases.items()}
    found = ilgd_report.rows({name: {point.label: {"recall": 1} for point in of} for name, of in points.items()})
    assert len(found) == sum(map(len, points.values())) + len(points)


def test_modules_stand_in_rows_by_weights():
    chosen = load(combinations.Experiment, "smoke").experiment.cases
    metrics = {case: {"nfe": case} for case in chosen}
    found = combinations_report.apart(chosen, metrics)
    assert list(found) == ["paper", "tuned"] and list(found["paper"]) == list(found["tuned"])
    assert found["tuned"]["unguided"] == {"nfe": "none"} and found["paper"]["unguided"] == {}
    assert found["paper"]["text + drag"] == {"nfe": "text_drag_paper"}
    assert found["tuned"]["source drawn again"] == {"nfe": "source"}
    several = combinations_report.apart(chosen, metrics, 2)["tuned"]
    assert list(several) == ["text + layout", "text + drag", "layout + drag", "text + layout + drag"]
    alone = {case: of for case, of in metrics.items() if not case.endswith("_paper")}
    assert list(combinations_report.apart(chosen, alone)) == ["tuned"]
