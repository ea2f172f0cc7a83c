"""The explorer of failures: rows in order, limits, what is shown of a row, and pictures drawn again."""

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from dga_traces import LAYOUT
from ipywidgets.widgets.widget import _instances
from PIL import Image

from helpers.benchmarks.miniature import load_captioned
from helpers.guidance.cfg import CFG
from helpers.guidance.dga import DGA
from helpers.judges.base import Found
from helpers.metrics.appearance import contrast, saturation
from helpers.paths import RESULTS
from helpers.pipeline import score
from helpers.pipeline.samples import Samples
from helpers.pipeline.score import Scored, load_score
from helpers.sampling.loop import sample
from helpers.sampling.trace import Record, Trace
from helpers.widgets import lifetime
from helpers.widgets.failures import Shown, draw_finds, drawn_again, explore_failures, opened_by
from helpers.widgets.rows import metrics, number, rows, with_rows

MASK = np.zeros((64, 64), bool)
CAR = Found("car", "red", "plain", 0.9, (4, 8, 30, 32), MASK)
ITEMS = load_captioned("test")[:20]


def scored(ious, ids=None):
    made = [
        {
            "id": name,
            "seed": k,
            "nfe": 40.0,
            "box_iou": iou,
            "center_dist": 10 * iou,
            "contrast": 0.2,
            "saturation": 0.5,
        }
        for k, (name, iou) in enumerate(zip(ids or [item.id for item in ITEMS], ious))
    ]
    return Scored(made, [[CAR] for _ in made], torch.zeros(len(made), 4))


def drawn(tiny, segmenter, item, window):
    """A picture of an untrained model, with a guide that watches."""
    trace = Trace([0])
    watching = DGA(layouts=LAYOUT, segmenter=segmenter, window=window)
    run = sample(tiny, LAYOUT.prompt, [CFG(3), watching], steps=3, seeds=[item.seed], trace=trace, progress=False)
    return Samples(run.images, [], [], trace)


class Tiny:
    """Cases of an experiment that an untrained model draws; a case is compared with `none`, `again` with `other`."""

    def __init__(self, make):
        self.make, self.asked = make, []

    def baseline(self, case):
        if case == "gone":
            raise ValueError("unknown case 'gone': use one of none, <full>")
        return "other" if case == "again" else "none"

    def items(self, case):
        self.baseline(case)
        return ITEMS

    def draw(self, case, item):
        self.asked.append((case, item.id))
        return self.make(item)


@pytest.fixture
def results(tmp_path):
    """Cases with four pictures, the baseline `other` in another order; an experiment that nobody draws again, and one
    without rows."""
    ids = [item.id for item in ITEMS]
    for name, case, ious, names in (
        ("layout", "none", [0.5, 0.1, 0.3, 0.2], ids),
        ("layout", "full", [0.4, 0.9, math.nan, 0.6], ids),
        ("layout", "other", [0.0, 0.2, 0.4, 0.6], ids[3::-1]),
        ("layout", "again", [0.1, 0.5, 0.5, 0.2], ids),
        ("layout", "gone", [0.1, 0.2], ids),
        ("mine", "none", [0.2, 0.3], ids),
    ):
        score.save(scored(ious, names), tmp_path / name / "score" / case, kept(name, case))
    (tmp_path / "curves" / "score" / "noise").mkdir(parents=True)
    return tmp_path


def kept(name, case):
    """The showcase of `none` and `full`: two pictures, the first with every step."""
    trace = Trace([0, 1])
    picture = np.full((64, 64, 3), 90 + 50 * (case == "full"), np.uint8)
    trace.records = [
        Record(k, item.prompt, item.seed, item.layout.boxes_only(), None, picture[None].repeat(3, 0), picture)
        for k, item in enumerate(ITEMS[:2])
    ]
    for record in trace.records:
        record.curves = {"eff_cfg": np.ones(3, np.float32)}
    trace.timesteps, trace.sigmas, trace.settings = [900, 500, 100], [1.0, 0.7, 0.2], {"steps": 3}
    return trace


@pytest.fixture
def explorer(results, tiny, segmenter):
    cases = Tiny(lambda item: drawn(tiny, segmenter, item, {"start": 0.0, "stop": 0.0}))
    found = explore_failures({"layout": cases}, results)
    found.case.value = "full"
    return found


def listed(explorer):
    """The names of the rows that can be seen, in their order."""
    lines = zip(explorer.lines, explorer.names, strict=True)
    return [button.description for line, button in lines if line.layout.visibility == "visible"]


def ids(*places):
    return [ITEMS[place].id for place in places]


def pictures(explorer):
    return [bytes(image.value) for _, image, _ in explorer.sides]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_rows_have_values_and_changes_of_the_same_item(results):
    base, full, other = (load_score(results / "layout" / "score" / case) for case in ("none", "full", "other"))
    found = rows(full, base, "box_iou")
    assert [row.place for row in found] == [0, 1, 3], "where a metric does not exist there is no row"
    assert [round(row.change, 4) for row in found] == [-0.1, 0.8, 0.4]
    assert [round(row.change, 4) for row in rows(full, other, "box_iou")] == [-0.2, 0.5, 0.6], "by id, not by place"
    assert all(math.isnan(row.change) for row in rows(full, None, "box_iou"))
    assert metrics(full) == ["box_iou", "center_dist"], "not what is the same everywhere, nor the seed"


def test_what_has_rows_is_offered(results, tmp_path_factory):
    assert with_rows(results) == (
        {"layout": ["again", "full", "gone", "none", "other"], "mine": ["none"]},
        ["curves"],
    )
    with pytest.raises(FileNotFoundError, match="holds no scores: run `dvc pull --allow-missing`"):
        explore_failures({}, tmp_path_factory.mktemp("empty"))


def test_limits():
    assert (number("", 1.0), number(" 0,5 ", 1.0), number("-inf", 1.0)) == (1.0, 0.5, -math.inf)
    for wrong in ("a", "nan", "1..2"):
        with pytest.raises(ValueError, match="is no number: write one such as 0.5, or nothing"):
            number(wrong, 1.0)


# --- the list --------------------------------------------------------------------------------------------------------


def test_it_sorts_the_worst_first_and_filters(explorer):
    assert explorer.metric.value == "box_iou" and listed(explorer) == ids(0, 3, 1)
    assert "0.40" in explorer.cells[0].value and "(-0.10)" in explorer.cells[0].value
    assert "0.40 <b style" in explorer.cells[0].value and "0.60 (+0.40)" in explorer.cells[1].value, "the worse is bold"
    assert "9.00 <b style" in explorer.cells[2].value, "less is better"
    explorer.by.value = "its change"
    explorer.high.value = "0.5"
    assert listed(explorer) == ids(0, 3) and "2 of 4 pictures" in explorer.count.value
    explorer.order.value = "largest first"
    assert listed(explorer) == ids(3, 0)
    explorer.high.value, explorer.by.value = "", "its value"
    explorer.metric.value = "center_dist"
    assert explorer.order.value == "largest first", "less is better"
    assert listed(explorer) == ids(1, 3, 0)
    explorer.low.value = "100"
    assert listed(explorer) == [] and "0 of 4 pictures" in explorer.count.value


def test_a_limit_that_is_no_number_is_said_beside_it_as_text(explorer):
    explorer.low.value = "<img src=x>"
    assert "&lt;img src=x&gt;" in explorer.limits.value and "<img" not in explorer.limits.value
    assert "is no number" in explorer.limits.value and listed(explorer) == ids(0, 3, 1), "the list stays"
    explorer.low.value = "0.5"
    assert explorer.limits.value == "" and listed(explorer) == ids(3, 1)


def test_pages(results):
    score.save(scored(np.linspace(0, 1, 20)), results / "layout" / "score" / "full")
    explorer = explore_failures({}, results)
    explorer.case.value = "full"
    assert listed(explorer) == ids(*range(8)) and explorer.back.disabled and not explorer.forth.disabled
    explorer.forth.click()
    explorer.forth.click()
    assert listed(explorer) == ids(*range(16, 20)) and "page 3 of 3" in explorer.count.value
    assert explorer.forth.disabled and not explorer.back.disabled
    explorer.names[1].click()
    assert explorer.place == 17 and explorer.names[1].button_style == "info"
    explorer.order.value = "largest first"
    assert "page 1 of 3" in explorer.count.value


def test_a_case_is_compared_with_its_own_baseline(explorer):
    explorer.case.value = "again"
    assert explorer.baseline == "other" and "difference to other" in explorer.head.value
    assert "0.10 (-0.50)" in explorer.cells[0].value.replace("<b style='color:#d55e00'>", "").replace("</b>", "")
    explorer.case.value = "none"
    assert explorer.baseline is None and "no baseline" in explorer.head.value


# --- a row -----------------------------------------------------------------------------------------------------------


def test_a_row_opens_its_pictures_beside_the_baselines(explorer):
    explorer.names[0].click()
    assert explorer.place == 0 and ITEMS[0].prompt in explorer.title.value
    wanted, before, own = (np.asarray(Image.open(BytesIO(picture))) for picture in pictures(explorer))
    assert before[-2, -2].tolist() == [90] * 3 and own[-2, -2].tolist() == [140] * 3
    assert "1: red car, 0.90" in explorer.sides[2][2].value and "none" in explorer.sides[1][0].value
    assert "<td>box IoU</td><td>0.500</td><td>0.400</td>" in explorer.numbers.value
    assert explorer.openers.children == (), "steps are kept of one picture only"
    explorer.names[2].click()
    assert [button.description for button in explorer.openers.children] == ["Open steps"]
    explorer.openers.children[0].click()
    assert len(explorer.opened.children) == 1 and explorer.said.value == ""
    explorer.names[1].click()
    assert explorer.opened.children == () and explorer.openers.children == ()
    assert pictures(explorer)[1:] == [b"", b""] and "not in the store" in explorer.sides[2][2].value


def test_what_the_judge_finds_has_a_frame():
    picture = np.full((64, 64, 3), 90, np.uint8)
    found = np.asarray(Image.open(BytesIO(draw_finds(Shown(picture, [CAR]), None))))
    assert (found[32, 40:119] == 255).all() and (found[126, 17:119] == 255).all(), "the box, four times as large"
    assert (found[60:100, 40:100] == 90).all()


def test_a_row_is_drawn_again_with_its_traces(explorer):
    explorer.names[1].click()
    explorer.again.click()
    cases = explorer.experiments["layout"]
    assert cases.asked == [("none", ITEMS[3].id), ("full", ITEMS[3].id)], "baseline and case, the same item"
    assert list(explorer.traces) == ["none", "full"] and all(
        picture.startswith(b"\x89PNG") for picture in pictures(explorer)
    )
    assert "NOT the picture that was scored" in explorer.said.value and "the judge finds" in explorer.sides[2][2].value
    assert [button.description for button in explorer.openers.children] == ["Open masks", "Open steps"]
    explorer.openers.children[0].click()
    first = explorer.opened.children[0]
    explorer.openers.children[1].click()
    assert first.comm is None and explorer.opened.children[0].comm is not None, "the other explorer is closed"
    assert explorer.progress.layout.visibility == "hidden" and not explorer.again.disabled


def test_a_picture_is_known_by_its_looks():
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    row = {"contrast": float(contrast(images)), "saturation": float(saturation(images))}
    shown, said = drawn_again(Samples(images, [], []), row)
    assert said.startswith("the picture that was scored") and shown.picture.shape == (64, 64, 3)
    assert drawn_again(Samples(images / 2, [], []), row)[1].startswith("NOT the picture that was scored")


def test_explorers_open_what_both_traces_hold(tiny, segmenter):
    window = {"start": 0.0, "stop": 0.5}
    seen = drawn(tiny, segmenter, ITEMS[0], window).trace
    blind = Trace([0])
    sample(tiny, LAYOUT.prompt, [CFG(3)], steps=3, trace=blind, progress=False)
    assert list(opened_by({"none": seen, "full": seen})) == ["masks", "steps"]
    assert list(opened_by({"none": blind, "full": seen})) == ["steps"]
    assert opened_by({"none": seen}) == {}


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_cannot_be_drawn_again_says_so(explorer, results):
    assert any("curves: only means are kept" in part.value for part in explorer.children[0].children[2:])
    explorer.experiment.value = "mine"
    assert explorer.again.disabled and "cannot be drawn again" in explorer.said.value
    explorer.experiment.value, explorer.case.value = "layout", "gone"
    assert explorer.again.disabled and "&lt;full&gt;" in explorer.said.value, "params.yaml knows it no more"
    assert listed(explorer) == ids(0, 1), "its rows are shown all the same"


def test_errors_of_drawing_are_shown_as_text(explorer):
    def fails(item):
        raise RuntimeError("out of <b>memory</b>")

    explorer.experiments["layout"].make = fails
    explorer.names[0].click()
    explorer.again.click()
    assert "RuntimeError: out of &lt;b&gt;memory&lt;/b&gt;" in explorer.said.value
    assert not explorer.again.disabled and explorer.progress.layout.visibility == "hidden"


def test_damaged_rows_are_said(explorer, results):
    (results / "layout" / "score" / "gone" / "score.npz").write_bytes(b"no archive")
    explorer.case.value = "gone"
    assert "color:#b00020" in explorer.message.value


# --- closing, running the cell again ---------------------------------------------------------------------------------


def test_closing_it_frees_its_widgets_and_those_of_the_explorer_in_it(results):
    before = set(_instances)
    explorer = explore_failures({"layout": Tiny(None)}, results)
    explorer.case.value = "full"
    explorer.names[2].click()
    explorer.openers.children[0].click()
    assert len(explorer.opened.children) == 1
    explorer.close()
    assert set(_instances) == before


def test_running_the_cell_again_keeps_the_choices(results, monkeypatch):
    monkeypatch.setattr(lifetime, "_opened", {})
    monkeypatch.setattr("helpers.widgets.failures.cell", lambda: ("cell", "run 1"))
    first = explore_failures({"layout": Tiny(None)}, results)
    first.case.value, first.metric.value, first.by.value, first.low.value = "full", "center_dist", "its change", "-1"
    monkeypatch.setattr("helpers.widgets.failures.cell", lambda: ("cell", "run 2"))
    again = explore_failures({"layout": Tiny(None)}, results)
    assert first.comm is None and listed(again) == ids(1, 3, 0)
    assert (again.case.value, again.metric.value, again.low.value) == ("full", "center_dist", "-1")


# --- the shipped results ---------------------------------------------------------------------------------------------


def test_the_shipped_scores_are_all_offered():
    known, means = with_rows(RESULTS)
    assert {"layout", "dga", "dca", "dma", "free", "combinations", "sbpc"} <= set(known)
    assert {"ilgd", "robustness"} <= set(means)


def test_of_a_map_and_its_picture_the_picture_is_shown():
    """Guided maps keep no showcase, but strips: the judge saw their right half."""
    found = explore_failures({})
    found.experiment.value, found.case.value = "guided_factors", "map_arranged_5"
    strips = load_score(RESULTS / "guided_factors" / "score" / "map_arranged_5").pictures
    for place, strip in enumerate(strips):
        found.place = place
        assert np.array_equal(found._stored("map_arranged_5").picture, strip[:, 64:]) and strip.shape == (64, 128, 3)
