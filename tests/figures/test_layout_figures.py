"""Plots of layout methods: what is on the front, what a search found, points of ablations."""

import numpy as np
import pytest
from drawing import SEARCHES, drawn, entry
from matplotlib.colors import to_hex

from helpers.figures.layout import front, pareto_plot, points_plot, said, search_plot, search_table
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


def placed(iou, far, looks, seconds):
    numbers = {"box_iou": iou, "kernel_distance": far, "clip_iqa": looks, "seconds": seconds}
    return {name: entry(value) for name, value in numbers.items()}


def by_attention(case):
    """Is the method of a case one of attention?"""
    return not case.startswith("dga")


PLACED = {  # the defaults of iLGD are beaten everywhere, the rest nowhere
    "none": placed(0.1, 0.2, 0.9, 1),
    "ilgd": placed(0.2, 0.9, 0.2, 9),
    "ilgd_tuned": placed(0.4, 0.3, 0.5, 2),
    "dga_tuned": placed(0.6, 0.4, 0.4, 4),
}


@pytest.fixture(scope="module")
def pareto():
    fig = pareto_plot(PLACED, "tiny", by_attention)
    drawn(fig)
    return fig


def test_the_pareto_plot_has_a_panel_for_every_cost(pareto):
    assert [ax.get_xlabel() for ax in pareto.axes] == ["kernel_distance ↓", "clip_iqa ↑", "seconds ↓"]
    assert [ax.get_xscale() for ax in pareto.axes] == ["symlog", "linear", "symlog"]
    assert {ax.get_ylabel() for ax in pareto.axes} == {"box_iou ↑"} and pareto.get_suptitle() == "tiny"


def test_the_pareto_plot_joins_what_nothing_beats(pareto):
    for ax, costs in zip(pareto.axes, ([0.2, 0.3, 0.4], [0.9, 0.5, 0.4], [1, 2, 4]), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([costs, [0.1, 0.4, 0.6]], 1))


def test_the_pareto_plot_tells_defaults_tuned_and_dga_apart(pareto):
    for ax in pareto.axes:
        points = [line for line in ax.lines if line.get_marker() == "o"]
        assert [to_hex(line.get_color()) for line in points] == [BASE, METHOD, METHOD, OTHER]
        faces = ["#ffffff", "#ffffff", METHOD, OTHER]
        assert [to_hex(line.get_markerfacecolor()) for line in points] == faces
        assert [text.get_text() for text in ax.texts] == ["none", "ilgd", "dga"]
        assert [text.xy[1] for text in ax.texts] == [0.1, 0.4, 0.6], "iLGD's defaults have no name"


def test_a_cost_that_does_not_exist_leaves_its_case_out():
    metrics = PLACED | {"other_tuned": placed(0.9, 0.1, float("nan"), 1)}
    fig = pareto_plot(metrics, "tiny", by_attention)
    drawn(fig)
    assert [len(ax.texts) for ax in fig.axes] == [4, 3, 4]


def test_the_table_of_the_search_marks_the_best():
    table = search_table(SEARCHES)
    assert table.options.tolist() == ["defaults", "scale 10.0", "scale 20.0", "defaults", "scale 10.0"]
    assert table.best.tolist() == [False, True, False, True, False] and table.case.value_counts()["ilgd"] == 3
    assert table.box_iou.tolist() == [0.2, 0.4, 0.3, 0.5, 0.1] and table.recall[1] == 0.2
    assert {"kernel_distance", "attribute_acc", "seconds"} <= set(table.columns)


def test_options_are_said_in_words():
    assert said({}) == "defaults" and said({"scale": 2.0, "window": [0.0, 0.5]}) == "scale 2.0, window [0.0, 0.5]"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_search_plot_has_a_panel_per_case_and_the_best_in_blue(count):
    searches = dict(zip(("ilgd", "boxdiff", "dga", "directed"), [*SEARCHES.values()] * 2, strict=True))
    searches = dict(list(searches.items())[:count])
    fig = search_plot(searches, "tiny, dev split")
    drawn(fig)
    assert [ax.axison for ax in fig.axes] == [k < count for k in range(2 * -(-count // 2))]
    assert fig.get_suptitle() == "box IoU, tiny, dev split"
    assert [ax.get_title() for ax in fig.axes[:count]] == list(searches)
    for ax, found in zip(fig.axes, searches.values(), strict=False):
        assert [label.get_text() for label in ax.get_yticklabels()] == [said(t["options"]) for t in found["tried"]]
        points = [line for line in ax.lines if line.get_marker() == "o"]
        assert [line.get_xdata()[0] for line in points] == [tried["box_iou"]["mean"] for tried in found["tried"]]
        assert [line.get_color() == METHOD for line in points] == [
            t["options"] == found["best"] for t in found["tried"]
        ]
        spans = [line.get_xdata() for line in ax.lines if line.get_marker() != "o"]
        np.testing.assert_allclose(spans[0], [found["tried"][0]["box_iou"][key] for key in ("lo", "hi")])
        assert ax.yaxis_inverted(), "the first stands above"


ABLATIONS = {
    "injection": {"0.0": placed(0.1, 0.2, 0.9, 1), "0.75": placed(0.3, 0.3, 0.8, 1), "6.0": placed(0.4, 0.9, 0.1, 1)},
    "loss_strength": {"0.32": placed(0.2, 0.2, 0.9, 2), "10.0": placed(0.5, 0.5, 0.5, 2)},
}


def test_the_plot_of_points_has_a_row_per_ablation_and_a_column_per_metric():
    fig = points_plot(ABLATIONS, ("box_iou", "kernel_distance"), "tiny")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, 2))
    assert [row[0].get_title(loc="left") for row in grid] == ["injection", "loss strength"]
    assert [ax.get_xlabel() for ax in grid[1]] == ["box_iou ↑", "kernel_distance ↓"]
    assert [ax.get_xscale() for ax in grid[1]] == ["linear", "symlog"]
    for row, points in zip(grid, ABLATIONS.values(), strict=True):
        assert [label.get_text() for label in row[0].get_yticklabels()] == list(points)
        for ax, name in zip(row, ("box_iou", "kernel_distance"), strict=True):
            means = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
            assert means == [entries[name]["mean"] for entries in points.values()]
            assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first stands above"
    colors = [{line.get_color() for ax in row for line in ax.lines} for row in grid]
    assert all(len(own) == 1 for own in colors) and colors[0] != colors[1]
