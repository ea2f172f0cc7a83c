"""Metrics as dots: which numbers are where, in which colour, of how many."""

import numpy as np
import pytest
from drawing import drawn, entry, lost
from matplotlib.colors import to_hex

from helpers.figures.dots import UNCLEAR, dots_plot, verdict
from helpers.figures.style import METHOD, OTHER

METRICS = {
    "unguided": {"box_iou": entry(0.1), "kernel_distance": entry(0.2)},
    "DGA": {"box_iou": entry(0.6, 0.5), "kernel_distance": entry(0.3, 0.1)},
    "less": {"box_iou": entry(0.12, 0.02), "kernel_distance": entry(0.1, -0.1)},
}
NAMES = ["box_iou", "kernel_distance"]


def dots(ax):
    """(x, y, colour, filled) of every dot."""
    points = [line for line in ax.lines if line.get_marker() == "o"]
    return [
        (*line.get_xydata()[0].round(3).tolist(), to_hex(line.get_color()), to_hex(line.get_mfc()) != "#ffffff")
        for line in points
    ]


def test_a_dot_is_a_mean_and_its_line_the_interval():
    fig = dots_plot({"": METRICS}, NAMES, "a message", "tiny")
    drawn(fig)
    iou, far, rest = fig.axes
    assert [label.get_text() for label in iou.get_yticklabels()] == list(METRICS) and not rest.axison
    assert dots(iou) == [(0.1, 0, METHOD, True), (0.6, 1, METHOD, True), (0.12, 2, METHOD, True)]
    spans = [line.get_xdata() for line in iou.lines if line.get_marker() != "o"]
    np.testing.assert_allclose(spans[1], (0.55, 0.65))
    assert (iou.get_xlabel(), far.get_xlabel()) == ("box IoU\n→ better", "kernel distance\n← better")
    assert "n\u00a0=\u00a096" in fig.get_supxlabel() and fig.get_suptitle() == "a message"


def test_differences_have_the_colour_of_what_they_say():
    fig = dots_plot({"": METRICS}, NAMES, "", "tiny", "diff")
    assert [dot[2] for dot in dots(fig.axes[0])] == [UNCLEAR, METHOD, UNCLEAR]
    assert [dot[2] for dot in dots(fig.axes[1])] == [UNCLEAR, OTHER, METHOD], "less distance is better"
    assert [dot[0] for dot in dots(fig.axes[0])] == [0, 0.5, 0.02]


@pytest.mark.parametrize(
    ("name", "ends", "color"),
    [
        ("recall", (0.1, 0.2), METHOD),
        ("recall", (-0.2, -0.1), OTHER),
        ("recall", (-0.1, 0.1), UNCLEAR),
        ("recall", (0, 0.1), UNCLEAR),
        ("nfe", (10, 20), OTHER),
        ("saturation", (0.1, 0.2), UNCLEAR),
    ],
)
def test_a_verdict_needs_an_interval_without_zero_and_a_direction(name, ends, color):
    assert verdict(name, dict(zip(("lo", "hi"), ends))) == color


def test_every_metric_has_the_difference_that_it_is_told():
    loss = {"mean": -0.3, "lo": -0.4, "hi": -0.2}
    metrics = {"both": {"box_iou": entry(0.5, 0.4) | {"diff_layout": loss}, "recall": entry(0.5, 0.1)}}
    fig = dots_plot({"": metrics}, ["box_iou", "recall"], "", "", {"box_iou": "diff_layout"})
    assert [dots(ax)[0][0] for ax in fig.axes[:2]] == [-0.3, 0.1]
    fig = dots_plot({"": metrics}, ["box_iou", "recall"], "", "", {"box_iou": "diff_drag"})
    assert [len(dots(ax)) for ax in fig.axes[:2]] == [0, 1], "no such difference"


def test_of_two_series_the_last_is_filled_and_stands_below():
    fig = dots_plot({"paper": {"a": METRICS["unguided"], "b": {}}, "tuned": METRICS}, NAMES, "", "")
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["a", "b", "unguided", "DGA", "less"]
    assert [dot[3] for dot in dots(fig.axes[0])] == [False, True, True, True]
    both = dots_plot({"paper": METRICS, "tuned": METRICS}, NAMES, "", "")
    rows = [dot[1] for dot in dots(both.axes[0])]
    assert rows[:3] == [-0.18, 0.82, 1.82] and rows[3:] == [0.18, 1.18, 2.18]


def test_what_does_not_exist_is_left_out_and_n_is_said_where_it_differs():
    few = {"box_iou": entry(0.5) | {"n": 32}, "kernel_distance": entry(0.5) | lost(float("nan")) | {"n": 0}}
    fig = dots_plot({"": {"A heading": {}, **METRICS, "few": few}}, NAMES, "", "")
    drawn(fig)
    labels = fig.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["A heading", "unguided (96)", "DGA (96)", "less (96)", "few (32)"]
    assert [label.get_fontweight() for label in labels] == ["bold", *["normal"] * 4]
    assert [len(dots(ax)) for ax in fig.axes[:2]] == [4, 3] and "in brackets: n" in fig.get_supxlabel()
    rare = {
        case: {**found, "relation_acc": entry(0.5) | {"n": 30 + k}} for k, (case, found) in enumerate(METRICS.items())
    }
    fig = dots_plot({"": rare}, [*NAMES, "relation_acc"], "", "")
    assert [ax.get_xlabel().endswith("(n = 30 to 32)") for ax in fig.axes] == [False, False, True]


def test_a_distance_of_decades_has_a_logarithm():
    metrics = METRICS | {"broken": {"box_iou": entry(0.1), "kernel_distance": entry(11.0)}}
    scales = [[ax.get_xscale() for ax in dots_plot({"": of}, NAMES, "", "").axes[:2]] for of in (METRICS, metrics)]
    assert scales == [["linear", "linear"], ["linear", "symlog"]]
