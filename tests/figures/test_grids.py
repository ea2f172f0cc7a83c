"""Grids of final pictures: what stands where, and what is said of it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from dga_traces import ASKED, LAYOUT
from dga_traces import record as dga_record
from drawing import arrows, drawn, shown
from flow_traces import ARRIVED, GUIDED, drag, picture, record, trace

from helpers.conditions import Move
from helpers.figures import overlay
from helpers.figures.grids import case_grid, combination_grid, drag_grid, prompt_grid
from helpers.sampling.trace import Record, Trace

SECOND = drag((-4, 20), prompt="a blue ball")
TWO_HANDLES = SECOND.model_copy(update={"moves": [*SECOND.moves, Move(handle=(0.2, 0.4), target=(0.3, 0.9))]})
DRAGS = (drag(), TWO_HANDLES)
EDITS = [picture(24, 10), picture(-4, 20)]


@pytest.fixture(scope="module")
def traces(tiny, segmenter):
    return {case: dga_record(tiny, segmenter, *asked) for case, asked in ASKED.items()}


def test_case_grid_has_the_baseline_left_and_says_the_scores(traces):
    scores = {case: [{"box_iou": 0.25 + n / 8, "mask_iou": 0.5}] * 2 for n, case in enumerate(traces)}
    fig = case_grid(traces, scores, "tiny, 5 steps")
    drawn(fig)
    assert [ax.get_title() for ax in fig.axes[:4]] == ["wanted", "none", "full", "full masks"]
    assert [ax.get_xlabel() for ax in fig.axes[1:4]] == [f"IoU: box {v}, mask 0.50" for v in ("0.25", "0.38", "0.50")]
    assert len(fig.axes) == 2 * 4
    first, second = fig.axes[1].images[0].get_array(), fig.axes[5].images[0].get_array()
    assert (first != second).any(), "another row is another picture"
    plain = overlay.enlarge(traces["none"].records[0].final)
    untouched = ~np.any([overlay.edge(mask, 3) for mask in overlay.wanted(LAYOUT.boxes_only())], 0)
    assert (np.asarray(first)[untouched] == plain[untouched]).all()


def test_prompt_grid_says_what_the_judge_found_and_leaves_out_what_there_is_not(traces):
    chosen = {case: traces[case] for case in ("none", "full")}
    rows = [{"attribute_acc": 0.5, "relation_acc": np.nan}, {"attribute_acc": 1.0, "relation_acc": 0.25}]
    fig = prompt_grid(chosen, dict.fromkeys(chosen, rows), "tiny, 5 steps")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, 3))
    assert [ax.get_title() for ax in grid[0]] == ["", "none", "full"]
    assert [row[1].get_xlabel() for row in grid] == [
        "attributes 0.50, relations -",
        "attributes 1.00, relations 0.25",
    ]
    for k, row in enumerate(grid):
        assert f"{LAYOUT.prompt} (seed {k})" == row[0].texts[0].get_text().replace("\n", " ")
        assert (shown(row[2]) == overlay.enlarge(traces["full"].records[k].final)).all()


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
    fig = drag_grid(drags, EDITS, scores, "tiny, no CFG")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, 5))
    assert [ax.get_title() for ax in grid[0]] == ["source, drag", "wanted", "none", "full", "displacement"]
    assert fig.get_suptitle() == "tiny, no CFG"
    for row, index in zip(grid, (1, 0), strict=True):
        assert (shown(row[1]) == overlay.enlarge(EDITS[index])).all()
        assert (shown(row[0]) == overlay.enlarge(picture())).all()
        assert f"{DRAGS[index].prompt}, seed {index}" == row[0].get_xlabel().replace("\n", " ")
        for n, (ax, name) in enumerate(zip(row[2:], drags, strict=True)):
            of = next(of for of in drags[name].records if of.index == index)
            assert (shown(ax) == overlay.enlarge(of.final)).all()
            assert ax.get_xlabel() == f"{4 + n + index / 10:.1f} px off, fidelity {0.5 + n + index / 10:.2f}"


def test_an_arrow_goes_from_every_handle_to_its_target(drags):
    fig = drag_grid({"none": drags["none"]}, EDITS, rows_of(["none"], drag_md=1.0, edit_fidelity=0.5), "")
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
    "names", [("none", "source", "layout", "drag", "layout_drag"), ("none", "layout"), ("source", "drag")]
)
def test_combination_grid_shows_the_drag_the_layout_and_the_cases(names):
    traces = {name: finals(n) for n, name in enumerate(names)}
    fig = combination_grid(traces, [COMBINED] * 2, rows_of(names, box_iou=0.25, center_dist=3.0), "tiny")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, len(names) + 1))
    titles = [ax.get_title().replace("\n", " ") for ax in grid[0]]
    assert titles == ["source, drag, wanted", *(name.replace("_", " ") for name in names)]
    source, wanted = overlay.enlarge(picture()), LAYOUT.boxes_only()
    for k, row in enumerate(grid):
        assert (shown(row[0]) == overlay.draw_wanted(source, wanted)).all() and len(arrows(row[0])) == 2
        assert row[0].get_xlabel().replace("\n", " ") == LAYOUT.prompt
        for n, (ax, name) in enumerate(zip(row[1:], names, strict=True)):
            final = overlay.enlarge(traces[name].records[k].final)
            assert (shown(ax) == overlay.draw_wanted(final, wanted)).all(), "also where no layout was asked for"
            assert ax.get_xlabel() == f"IoU {0.25 + n + k / 10:.2f}, {3 + n + k / 10:.0f} px off"
