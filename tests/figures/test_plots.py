"""Plots of metrics: which numbers are where."""

import numpy as np
import pandas as pd
import pytest
from drawing import curve, drawn, entry, texts

from helpers.figures.plots import cases_plot, curves_plot, objects_plot, strength_plot, tradeoff_plot

METRICS = {
    "none": {"box_iou": entry(0.1), "kernel_distance": entry(0.2)},
    "full": {"box_iou": entry(0.6, 0.5), "kernel_distance": entry(0.3, 0.1)},
    "window_30": {"box_iou": entry(0.12, 0.02), "kernel_distance": entry(0.1, -0.1)},
}


def test_cases_plot_draws_mean_and_interval():
    fig = cases_plot(METRICS, ["box_iou", "kernel_distance"], "tiny")
    drawn(fig)
    iou, far = fig.axes
    assert [label.get_text() for label in iou.get_yticklabels()] == list(METRICS)
    points = next(line for line in iou.lines if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_xdata(), [0.1, 0.6, 0.12])
    spans = [tuple(line.get_xdata()) for line in iou.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(span, (0.55, 0.65)) for span in spans)
    assert (iou.get_xlabel(), far.get_xlabel()) == ("box_iou ↑", "kernel_distance ↓")


def test_objects_plot_has_a_row_per_caption_and_leaves_out_what_was_not_drawn():
    rows = [
        {"guidance": guidance, "caption": caption, "objects": n, "recall": share}
        for caption, counts in (("long", (1, 2, 6)), ("short", (1, 2)))
        for guidance, share in (("none", 0.25), ("full", 0.75))
        for n in counts
    ]
    fig = objects_plot(pd.DataFrame(rows), ("recall",), "a title")
    drawn(fig)
    long, short = fig.axes
    assert (long.get_ylabel(), short.get_ylabel(), long.get_title()) == ("long captions", "short captions", "recall")
    points = [line for line in short.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert [line.get_ydata().tolist() for line in points] == [[0.25, 0.25], [0.75, 0.75]]
    assert [text.get_text() for text in long.get_legend().get_texts()] == ["none", "full"]


def test_strength_plot_orders_strengths_as_numbers():
    sweep = {str(s): {"box_iou": entry(s / 20), "kernel_distance": entry(s / 10)} for s in (0.0, 10.0, 2.0)}
    fig = strength_plot(sweep, "box_iou", "tiny, dev")
    drawn(fig)
    np.testing.assert_allclose(fig.axes[0].lines[0].get_xdata(), [0, 2, 10])
    assert [text for text in texts(fig) if text in ("0", "2", "10")][-3:] == ["0", "2", "10"]


def test_curves_plot_draws_mean_interval_and_baseline_over_the_values():
    curves = {"layout_noise": curve([0, 0.05, 0.2], "box_iou"), "mask_error": curve([-4, 0, 4], "drag_md", 5, 12)}
    fig = curves_plot(curves, {"layout_noise": "box_iou", "mask_error": "drag_md"}, "tiny")
    drawn(fig)
    noise, mask = fig.axes
    assert [ax.get_title() for ax in fig.axes] == ["layout noise", "mask error"]
    assert [ax.get_ylabel() for ax in fig.axes] == ["box_iou ↑", "drag_md ↓"]
    np.testing.assert_allclose(noise.lines[0].get_xdata(), [0, 0.05, 0.2])
    np.testing.assert_allclose(noise.lines[0].get_ydata(), [0.5, 0.49, 0.48])
    np.testing.assert_allclose(mask.lines[0].get_xdata(), [-4, 0, 4])
    assert [set(ax.lines[1].get_ydata()) for ax in fig.axes] == [{0.1}, {12}]
    edges = noise.collections[0].get_paths()[0].vertices
    assert edges[:, 1].min() == pytest.approx(0.43) and edges[:, 1].max() == pytest.approx(0.55)


@pytest.mark.parametrize(("count", "places"), [(1, 1), (5, 5), (7, 10)])
def test_curves_plot_breaks_into_rows_and_hides_what_is_left_over(count, places):
    curves = {f"curve_{k}": curve([0, 1], "box_iou") for k in range(count)}
    fig = curves_plot(curves, dict.fromkeys(curves, "box_iou"), "tiny")
    drawn(fig)
    assert len(fig.axes) == places
    assert [ax.axison for ax in fig.axes] == [True] * count + [False] * (places - count)


def test_a_curve_of_numbers_that_do_not_exist_is_drawn_with_gaps():
    broken = curve([0, 1, 2], "relation_acc")
    broken["1"]["relation_acc"] = {"mean": float("nan"), "lo": float("nan"), "hi": float("nan")}
    fig = curves_plot({"missing": broken}, {"missing": "relation_acc"}, "tiny")
    drawn(fig)
    assert np.isnan(fig.axes[0].lines[0].get_ydata()).tolist() == [False, True, False]


def test_tradeoff_plot_goes_from_unguided_to_the_strongest():
    sweeps = {"layout": curve([4, 0.25, 1], "box_iou"), "drag": curve([1, 2], "drag_md", 5, 12)}
    fig = tradeoff_plot(sweeps, {"layout": "box_iou", "drag": "drag_md", "text": "relation_acc"}, "tiny")
    drawn(fig)
    layout, drag = fig.axes
    assert (layout.get_title(), drag.get_title()) == ("layout", "drag")
    assert (layout.get_ylabel(), drag.get_ylabel()) == ("box_iou ↑", "drag_md ↓")
    assert [text.get_text() for text in layout.texts] == ["none", "0.25", "1", "4"]
    np.testing.assert_allclose(layout.lines[0].get_ydata(), [0.1, 0.49, 0.48, 0.5])
    np.testing.assert_allclose(layout.lines[0].get_xdata(), [0.05, 0.2, 0.3, 0.1])
    assert len(drag.texts) == 3


def test_tradeoff_plot_without_a_sweep_is_an_empty_panel():
    fig = tradeoff_plot({}, {"layout": "box_iou"}, "no strengths were tried")
    drawn(fig)
    assert len(fig.axes) == 1 and not fig.axes[0].lines
