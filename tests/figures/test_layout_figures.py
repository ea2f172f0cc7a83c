"""Plots of layout methods: what is on the front, what a search found."""

import numpy as np
import pytest
from drawing import SEARCHES, drawn, entry
from matplotlib.colors import to_hex

from helpers.figures.layout import budget_plot, front, pareto_plot, said, search_plot, search_table
from helpers.figures.style import BASE, METHOD, OTHER


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], [True, True, True]),
        ([1, 2, 3], [3, 2, 1], [True, False, False]),
        ([1, 1, 2], [1, 2, 2], [False, True, False]),
        ([1, 1, 2], [2, 2, 1], [True, True, False]),  # equal ones beat each other not
        ([5], [0], [True]),
    ],
)
def test_the_front_holds_what_no_other_one_beats(x, y, expected):
    assert front(np.array(x), np.array(y)).tolist() == expected


def placed(iou, far, nfe):
    numbers = {"box_iou": iou, "kernel_distance": far, "nfe": nfe}
    return {name: entry(value) for name, value in numbers.items()}


PLACED = {  # iLGD is beaten everywhere, the rest nowhere
    "unguided": placed(0.1, 0.2, 20),
    "iLGD": placed(0.2, 0.9, 90),
    "BoxDiff": placed(0.4, 0.3, 40),
    "DGA": placed(0.6, 0.4, 80),
}
COLORS = {"unguided": BASE, "iLGD": METHOD, "BoxDiff": METHOD, "DGA": OTHER}


@pytest.fixture
def pareto():
    fig = pareto_plot(PLACED, "a message", "tiny", COLORS)
    drawn(fig)
    return fig


def test_the_pareto_plot_has_a_panel_for_every_cost(pareto):
    assert [ax.get_xlabel().split("\n") for ax in pareto.axes] == [
        ["kernel distance", "← better"],
        ["denoiser evaluations per image", "← better"],
    ]
    assert pareto.axes[0].get_ylabel() == "box IoU\n↑ better" and pareto.get_suptitle() == "a message"


def test_the_pareto_plot_joins_what_nothing_beats(pareto):
    for ax, costs in zip(pareto.axes, ([0.2, 0.3, 0.4], [20, 40, 80]), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([costs, [0.1, 0.4, 0.6]], 1))


def test_the_pareto_plot_names_every_case_in_its_colour(pareto):
    for ax in pareto.axes:
        points = [line for line in ax.lines if line.get_marker() == "o"]
        assert [to_hex(line.get_color()) for line in points] == list(COLORS.values())
        assert {text.get_text(): to_hex(text.get_color()) for text in ax.texts} == COLORS
        assert [text.xy[1] for text in ax.texts] == [0.1, 0.2, 0.4, 0.6]


def test_a_cost_that_does_not_exist_leaves_its_case_out():
    metrics = PLACED | {"other": placed(0.9, float("nan"), 1)}
    fig = pareto_plot(metrics, "", "tiny", COLORS | {"other": METHOD})
    drawn(fig)
    assert [len(ax.texts) for ax in fig.axes] == [4, 5]


def tries(*pairs):
    return {"tried": [{"nfe": {"mean": nfe}, "box_iou": {"mean": iou}} for nfe, iou in pairs]}


def test_the_budget_plot_climbs_to_the_best_that_so_many_evaluations_buy():
    searches = {"alone": [tries((40, 0.3), (90, 0.2)), tries((60, 0.5))], "with": [tries((94, 0.7), (50, 0.1))]}
    fig = budget_plot(searches | {"none": []}, {"alone": METHOD, "with": OTHER, "none": BASE}, "a message", "tiny")
    drawn(fig)
    (ax,) = fig.axes
    dots, steps = ([line for line in ax.lines if (line.get_marker() == "o") == dot] for dot in (True, False))
    assert [line.get_xydata().tolist() for line in dots] == [
        [[40, 0.3], [60, 0.5], [90, 0.2]],
        [[50, 0.1], [94, 0.7]],
    ]
    assert [line.get_ydata().tolist() for line in steps] == [[0.3, 0.5, 0.5], [0.1, 0.7]]
    assert [line.get_drawstyle() for line in steps] == ["steps-post"] * 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["alone", "with"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["40", "60"], "of what was tried"


def test_the_table_of_the_search_marks_the_best():
    table = search_table(SEARCHES)
    assert table.options.tolist() == ["as in the paper", "scale 10", "scale 20", "as in the paper", "scale 10"]
    assert table.best.tolist() == [False, True, False, True, False] and table.case.value_counts()["ilgd"] == 3
    assert table.box_iou.tolist() == [0.2, 0.4, 0.3, 0.5, 0.1] and table.recall[1] == 0.2
    assert {"kernel_distance", "attribute_acc", "nfe"} <= set(table.columns) and "seconds" not in table


def test_options_are_said_in_words():
    assert said({}) == "as in the paper"
    options = {
        "injection_window": {"start": 0.0, "stop": 0.22},
        "strength": {"rule": "polyak", "scale": 1.0},
        "scale": 2.0,
    }
    assert said(options) == "injection window 0–22 %, strength polyak 1, scale 2"
    again = {"recurrence": {"times": 15, "window": {"start": 0.0, "stop": 0.15}}, "loss": "squared_share"}
    assert said(again) == "recurrence (times 15, window 0–15 %), loss squared share"


def test_the_search_plot_has_a_row_per_case_and_the_best_in_blue_and_words():
    fig = search_plot(SEARCHES, "a message", "tiny, dev split")
    drawn(fig)
    (ax,) = fig.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == list(SEARCHES) and ax.yaxis_inverted()
    right = ax.child_axes[0]
    assert [label.get_text() for label in right.get_yticklabels()] == [said(of["best"]) for of in SEARCHES.values()]
    points = [line for line in ax.lines if line.get_marker() == "o"]
    tried = [(of, one) for of in SEARCHES.values() for one in of["tried"]]
    assert [line.get_xdata()[0] for line in points] == [one["box_iou"]["mean"] for _, one in tried]
    assert [line.get_color() == METHOD for line in points] == [one["options"] == of["best"] for of, one in tried]
    spans = [line.get_xdata() for line in ax.lines if line.get_marker() != "o"]
    np.testing.assert_allclose(spans, [[0.35, 0.45], [0.45, 0.55]], err_msg="of the best alone")
