"""Plots of modules that act together, from Traces of a tiny model and by hand."""

import numpy as np
import pytest
from dga_traces import LAYOUT
from drawing import drawn, entry

from helpers.figures.combinations import cosines_plot, cost_plot
from helpers.guidance.cfg import CFG
from helpers.guidance.dga import DGA
from helpers.guidance.ilgd import ILGD
from helpers.sampling.loop import sample
from helpers.sampling.trace import Record, Trace


@pytest.fixture(scope="module")
def combined(tiny, segmenter):
    """Traces of one prompt drawn twice, guided in the first three of four steps."""
    layout = LAYOUT.boxes_only()
    dga, ilgd = DGA(layouts=layout, segmenter=segmenter), ILGD(layouts=layout)
    methods = {"none": [], "layout": [dga], "layout_attention": [dga, ilgd]}
    traces = {name: Trace((0, 1)) for name in methods}
    for name, trace in traces.items():
        sample(tiny, [layout.prompt] * 2, [CFG(3), *methods[name]], steps=4, trace=trace)
    return traces


def curves_of(*curves) -> Trace:
    """A Trace that recorded nothing but these curves, of an image each."""
    trace = Trace(range(len(curves)))
    trace.records = [Record(k, "a red car", k, curves=own) for k, own in enumerate(curves)]
    return trace


def test_cosines_plot_has_a_panel_per_case_with_several_rules(combined):
    assert "cosine.dga.ilgd" in combined["layout_attention"].records[0].curves
    fig = cosines_plot(combined, "tiny")
    drawn(fig)
    (ax,) = fig.axes
    assert ax.get_title() == "layout, attention" and ax.get_ylabel() == "cosine of gradients"
    values = np.stack([record.curves["cosine.dga.ilgd"] for record in combined["layout_attention"].records])
    assert np.isfinite(values[:, :3]).all() and np.isnan(values[:, 3]).all(), "the last step is not guided"
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values[:, :3].mean(0))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dga and ilgd"]


def test_cosines_plot_names_every_pair_and_shares_its_axis():
    one = {"cosine.dca.dga": np.array([0.5, np.nan, -0.5]), "cosine.dca.dma": np.array([0.1, 0.2, 0.3]), "dca": [1] * 3}
    other = {"cosine.dca.dga": np.array([0.1, 0.3, -0.1]), "cosine.dca.dma": np.array([0.3, 0.2, 0.1])}
    traces = {"none": curves_of({}, {}), "text_layout_drag": curves_of(one, other), "text_drag": curves_of(one)}
    fig = cosines_plot(traces, "tiny")
    drawn(fig)
    left, right = fig.axes
    assert (left.get_title(), right.get_title()) == ("text, layout, drag", "text, drag")
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == ["dca and dga", "dca and dma"] and left.get_ylim() == right.get_ylim()
    np.testing.assert_array_equal(left.lines[0].get_xdata(), [1, 3])
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0.3, -0.3])
    np.testing.assert_allclose(left.lines[1].get_ydata(), [0.2, 0.2, 0.2])


def test_cosines_plot_without_any_cosine_is_an_empty_panel(combined):
    fig = cosines_plot({"none": combined["none"], "layout": combined["layout"]}, "nothing to compare")
    drawn(fig)
    assert len(fig.axes) == 1 and not fig.axes[0].lines


COST = {"none": (2.0, 40, 500), "text": (4.0, 60, 600), "text_drag": (8.0, 90, 700), "text_drag_paper": (5.0, 50, 650)}


@pytest.mark.parametrize("names", [list(COST), ["none", "text"], ["text_drag_paper"]])
def test_cost_plot_has_a_point_per_case_over_the_number_of_modules(names):
    modules = {"none": 0, "text": 1, "text_drag": 2, "text_drag_paper": 2}
    metrics = {name: dict(zip(("seconds", "nfe", "peak_mb"), map(entry, COST[name]))) for name in names}
    fig = cost_plot(metrics, {name: modules[name] for name in names}, "tiny")
    drawn(fig)
    titles = ["seconds per image", "evaluations of the U-Net", "peak memory of a batch, MB"]
    assert [ax.get_ylabel() for ax in fig.axes] == titles and {ax.get_xlabel() for ax in fig.axes} == {"modules"}
    for n, ax in enumerate(fig.axes):
        points = np.concatenate([c.get_offsets() for c in ax.collections])
        ticks = [label.get_text() for label in ax.get_xticklabels()]
        found = sorted((ticks[round(x)], y) for x, y in points)
        assert found == sorted((str(modules[name]), COST[name][n]) for name in names)
        assert ax.get_ylim()[0] == 0
        kinds = {"paper, one gradient" if "paper" in name else "tuned, one each" for name in names}
        assert {text.get_text() for text in ax.get_legend().get_texts()} == kinds
