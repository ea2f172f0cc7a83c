"""Plots over strengths, knobs and numbers of objects: which numbers are where."""

import numpy as np
import pandas as pd
import pytest
from drawing import curve, drawn, entry

from helpers.figures.plots import curves_plot, objects_plot, strength_plot, tradeoff_plot


def test_objects_plot_has_a_row_per_caption_and_leaves_out_what_was_not_drawn():
    rows = [
        {"guidance": guidance, "caption": caption, "objects": n, "recall": share}
        for caption, counts in (("long", (1, 2, 6)), ("short", (1, 2)))
        for guidance, share in (("none", 0.25), ("full", 0.75))
        for n in counts
    ]
    fig = objects_plot(pd.DataFrame(rows), ("recall",), "a message", "tiny")
    drawn(fig)
    long, short = fig.axes
    assert (long.get_ylabel(), short.get_ylabel(), long.get_title()) == (
        "long captions",
        "short captions",
        "Share of objects found",
    )
    points = [bars.lines[0] for bars in short.containers]
    assert [line.get_ydata().tolist() for line in points] == [[0.25, 0.25], [0.75, 0.75]]
    assert [text.get_text() for text in long.get_legend().get_texts()] == ["unguided", "guided"]
    assert [label.get_text() for label in long.get_xticklabels()] == ["1\n(1)", "2\n(1)", "6\n(1)"], "n of each"


def test_strength_plot_orders_strengths_as_numbers():
    sweep = {str(s): {"box_iou": entry(s / 20), "kernel_distance": entry(s / 10)} for s in (0.0, 10.0, 2.0)}
    fig = strength_plot(sweep, "box_iou", "a message", "tiny, dev")
    drawn(fig)
    np.testing.assert_allclose(fig.axes[0].lines[0].get_xdata(), [0, 2, 10])
    assert [text.get_text() for text in fig.axes[1].texts] == ["0", "2", "10"]


def test_curves_plot_draws_mean_interval_and_baseline_over_the_values():
    curves = {"layout_noise": curve([0, 0.05, 0.2], "box_iou"), "mask_error": curve([-4, 0, 4], "drag_md", 5, 12)}
    knobs = {"layout_noise": ("shifted boxes", "shift"), "mask_error": ("errors of masks", "px")}
    fig = curves_plot(curves, {"layout_noise": "box_iou", "mask_error": "drag_md"}, knobs, "a message", "tiny")
    drawn(fig)
    noise, mask = fig.axes
    assert [ax.get_title() for ax in fig.axes] == ["shifted boxes", "errors of masks"]
    assert [ax.get_xlabel() for ax in fig.axes] == ["shift", "px"]
    assert [ax.get_ylabel() for ax in fig.axes] == ["box IoU\n↑ better", "handle to target, px\n↓ better"]
    np.testing.assert_allclose(noise.lines[0].get_xdata(), [0, 0.05, 0.2])
    np.testing.assert_allclose(noise.lines[0].get_ydata(), [0.5, 0.49, 0.48])
    np.testing.assert_allclose(mask.lines[0].get_xdata(), [-4, 0, 4])
    assert [set(ax.lines[1].get_ydata()) for ax in fig.axes] == [{0.1}, {12}]
    edges = noise.collections[0].get_paths()[0].vertices
    assert edges[:, 1].min() == pytest.approx(0.43) and edges[:, 1].max() == pytest.approx(0.55)


@pytest.mark.parametrize(("count", "places"), [(1, 1), (4, 4), (7, 8)])
def test_curves_plot_breaks_into_rows_and_hides_what_is_left_over(count, places):
    curves = {f"curve_{k}": curve([0, 1], "box_iou") for k in range(count)}
    fig = curves_plot(curves, dict.fromkeys(curves, "box_iou"), dict.fromkeys(curves, ("a knob", "px")), "", "tiny")
    drawn(fig)
    assert len(fig.axes) == places
    assert [ax.axison for ax in fig.axes] == [True] * count + [False] * (places - count)


def test_a_curve_of_numbers_that_do_not_exist_is_drawn_with_gaps():
    broken = curve([0, 1, 2], "relation_acc")
    broken["1"]["relation_acc"] = {"mean": float("nan"), "lo": float("nan"), "hi": float("nan"), "n": 0}
    fig = curves_plot({"missing": broken}, {"missing": "relation_acc"}, {"missing": ("a knob", "px")}, "", "tiny")
    drawn(fig)
    assert np.isnan(fig.axes[0].lines[0].get_ydata()).tolist() == [False, True, False]


def test_tradeoff_plot_goes_from_unguided_to_the_strongest():
    sweeps = {"layout": curve([4, 0.25, 1], "box_iou"), "drag": curve([1, 2], "drag_md", 5, 12)}
    metrics = {"layout": "box_iou", "drag": "drag_md", "text": "relation_acc"}
    fig = tradeoff_plot(sweeps, metrics, {"layout": "boxes", "drag": "drags"}, "a message", "tiny")
    drawn(fig)
    layout, drag = fig.axes
    assert (layout.get_title(), drag.get_title()) == ("boxes", "drags")
    assert (layout.get_ylabel(), drag.get_ylabel()) == ("box IoU\n↑ better", "handle to target, px\n↓ better")
    assert [text.get_text() for text in layout.texts] == ["unguided", "0.25 ×", "1 ×", "4 ×"]
    points = layout.lines[0].get_xydata()
    np.testing.assert_allclose(points, [[0.05, 0.1], [0.2, 0.49], [0.3, 0.48], [0.1, 0.5]])
    assert len(drag.texts) == 3


def test_tradeoff_plot_without_a_sweep_is_an_empty_panel():
    fig = tradeoff_plot({}, {"layout": "box_iou"}, {}, "no strengths were tried", "tiny")
    drawn(fig)
    assert len(fig.axes) == 1 and not fig.axes[0].lines
