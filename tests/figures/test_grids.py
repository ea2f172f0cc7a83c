"""Grids of final pictures: what stands where, and what is said of it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from dga_traces import ASKED, LAYOUT
from dga_traces import record as dga_record
from drawing import arrows, drawn, shown
from flow_traces import ARRIVED, GUIDED, drag, picture, record, trace
from matplotlib.colors import to_hex
from matplotlib.text import Text

from helpers.conditions import Move
from helpers.figures import overlay
from helpers.figures.grids import case_grid, combination_grid, drag_grid, one_of_each, prompt_grid
from helpers.sampling.trace import Record, Trace

SECOND = drag((-4, 20), prompt="a blue ball")
TWO_HANDLES = SECOND.model_copy(update={"moves": [*SECOND.moves, Move(handle=(0.2, 0.4), target=(0.3, 0.9))]})
DRAGS = (drag(), TWO_HANDLES)
EDITS = [picture(24, 10), picture(-4, 20)]


@pytest.fixture(scope="module")
def traces(tiny, segmenter):
    return {case: dga_record(tiny, segmenter, *asked) for case, asked in ASKED.items()}


def titles(fig, columns):
    """What stands above the columns; message and note come first."""
    return [text.get_text().replace("\n", " ") for text in fig.texts[2 : 2 + columns]]


def said(ax):
    """What stands above a row, and on which colours."""
    (packed,) = [artist for artist in ax.artists if hasattr(artist, "offsetbox")]
    words = [text for text in packed.findobj(Text) if text.get_text()]
    colors = {text.get_text(): to_hex(text.get_bbox_patch().get_facecolor()) for text in words if text.get_bbox_patch()}
    return " ".join(text.get_text() for text in words), colors


def test_case_grid_has_the_baseline_left_and_says_the_scores(traces):
    scores = {case: [{"box_iou": 0.25 + n / 8}] * 2 for n, case in enumerate(traces)}
    fig = case_grid(traces, scores, "a message", "tiny, 5 steps")
    drawn(fig)
    assert [text.get_text() for text in fig.texts[:2]] == ["a message", "tiny, 5 steps. ✗: box IoU below 0.5."]
    above = [f"{case} mean IoU {v} (n = 2)" for case, v in zip(traces, ("0.25", "0.38", "0.50"))]
    assert titles(fig, 4) == ["asked for", *above]
    assert [ax.get_xlabel() for ax in fig.axes[1:4]] == ["box IoU 0.25 ✗", "box IoU 0.38 ✗", "box IoU 0.50"]
    assert len(fig.axes) == 4, "one row for each number of objects"
    plain, first = overlay.enlarge(traces["none"].records[0].final), fig.axes[1].images[0].get_array()
    untouched = ~np.any([overlay.edge(mask, 3) for mask in overlay.wanted(LAYOUT.boxes_only())], 0)
    assert (np.asarray(first)[untouched] == plain[untouched]).all()


def test_a_phrase_stands_on_the_colour_of_its_box(traces):
    fig = case_grid(traces, {case: [{"box_iou": 0.25}] * 2 for case in traces}, "", "")
    words, colors = said(fig.axes[0])
    assert words == "a red car and a blue fish"
    assert colors == {"red car": overlay.COLORS[0], "blue fish": overlay.COLORS[1]}


def test_rows_are_the_first_of_every_number_of_objects():
    records = [SimpleNamespace(layout=layout) for layout in (SimpleNamespace(regions=[0] * n) for n in (2, 1, 2, 3, 1))]
    assert one_of_each(records) == [0, 1, 3]


def test_prompt_grid_says_what_the_judge_found_and_leaves_out_what_there_is_not(traces):
    chosen = {case: traces[case] for case in ("none", "full")}
    rows = [{"attribute_acc": 1.0, "relation_acc": np.nan}, {"attribute_acc": 1.0, "relation_acc": 0.25}]
    fig = prompt_grid(chosen, dict.fromkeys(chosen, rows), "a message", "tiny, 5 steps")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, 2))
    assert titles(fig, 4) == ["none", "full"] * 2, "two blocks"
    assert [row[1].get_xlabel() for row in grid] == [
        "attributes 1.00\nrelations -",
        "attributes 1.00\nrelations 0.25 ✗",
    ]
    for k, row in enumerate(grid):
        assert row[0].texts[0].get_text().replace("\n", " ") == LAYOUT.prompt
        assert (shown(row[1]) == overlay.enlarge(traces["full"].records[k].final)).all()


@pytest.fixture
def drags():
    """The second drag first: places in a figure are not places in the run."""
    return {
        case: trace(GUIDED[case], *(replace(record(share, DRAGS[k]), index=k, seed=k) for k in (1, 0)))
        for case, share in ARRIVED.items()
    }


def rows_of(names, **metrics):
    """case -> a row for each image, another number everywhere."""
    return {
        name: [{key: value + n + k / 10 for key, value in metrics.items()} for k in range(3)]
        for n, name in enumerate(names)
    }


def test_drag_grid_has_source_wanted_and_cases_in_order(drags):
    scores = rows_of(drags, drag_md=4.0, edit_fidelity=0.5)
    fig = drag_grid(drags, EDITS, scores, "a message", "tiny, no CFG")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, 5))
    assert titles(fig, 5) == ["source, drag", "true edit", "none", "full", "displacement"]
    for row, index in zip(grid, (1, 0), strict=True):
        assert (shown(row[1]) == overlay.enlarge(EDITS[index])).all()
        assert (shown(row[0]) == overlay.enlarge(picture())).all()
        assert DRAGS[index].prompt in [text.get_text() for text in row[0].texts]
        for n, (ax, name) in enumerate(zip(row[2:], drags, strict=True)):
            of = next(of for of in drags[name].records if of.index == index)
            assert (shown(ax) == overlay.enlarge(of.final)).all()
            off = 4 + n + index / 10
            assert ax.get_xlabel() == f"likeness {0.5 + n + index / 10:.2f}\n{off:.1f} px off" + " ✗" * (off > 4)


def test_an_arrow_goes_from_every_handle_to_its_target(drags):
    fig = drag_grid({"none": drags["none"]}, EDITS, rows_of(["none"], drag_md=1.0, edit_fidelity=0.5), "", "")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, 3))
    for ax, index in zip(grid[:, 0], (1, 0), strict=True):
        moves = DRAGS[index].moves
        assert len(arrows(ax)) == len(moves) == 1 + index
        for arrow, move in zip(arrows(ax), moves, strict=True):
            np.testing.assert_allclose(arrow.xy, 256 * np.array(move.target) - 0.5)
            np.testing.assert_allclose(arrow.xyann, 256 * np.array(move.handle) - 0.5)
    assert not any(arrows(ax) for ax in grid[:, 1:].flat)


COMBINED = SimpleNamespace(
    prompt=LAYOUT.prompt,
    scene=SimpleNamespace(layout=LAYOUT),
    drag=SimpleNamespace(drag=TWO_HANDLES),
)


def finals(seed) -> Trace:
    """A Trace of two pictures of one prompt."""
    random, made = np.random.default_rng(seed), Trace((0, 1))
    pictures = random.integers(0, 256, (2, 64, 64, 3), np.uint8)
    made.records = [Record(k, LAYOUT.prompt, k, final=final) for k, final in enumerate(pictures)]
    return made


@pytest.mark.parametrize(
    "names", [("none", "source", "layout", "drag", "both"), ("none", "layout"), ("source", "drag")]
)
def test_combination_grid_shows_the_drag_the_layout_and_the_cases(names):
    traces = {name: finals(n) for n, name in enumerate(names)}
    fig = combination_grid(traces, [COMBINED] * 2, rows_of(names, box_iou=0.25, center_dist=3.0), "message", "tiny")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, len(names) + 1))
    assert titles(fig, 1 + len(names)) == ["source, drag, boxes", *names]
    source, wanted = overlay.enlarge(picture()), LAYOUT.boxes_only()
    for k, row in enumerate(grid):
        assert (shown(row[0]) == overlay.draw_wanted(source, wanted)).all() and len(arrows(row[0])) == 2
        assert said(row[0])[0] == LAYOUT.prompt
        for n, (ax, name) in enumerate(zip(row[1:], names, strict=True)):
            final = overlay.enlarge(traces[name].records[k].final)
            assert (shown(ax) == overlay.draw_wanted(final, wanted)).all(), "also where no layout was asked for"
            iou, off = 0.25 + n + k / 10, 3 + n + k / 10
            assert ax.get_xlabel() == f"IoU {iou:.2f}\n{off:.0f} px off" + " ✗" * (iou < 0.5 or off > 4)
