"""Plots of modules that act together, from Traces of a tiny model and by hand."""

import numpy as np
import pytest
from dga_traces import LAYOUT
from drawing import drawn

from helpers.figures.combinations import cosines_plot
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
    methods = {"none": [], "layout": [dga], "layout + attention": [dga, ilgd]}
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
    assert "cosine.dga.ilgd" in combined["layout + attention"].records[0].curves
    fig = cosines_plot(combined, "message", "tiny")
    drawn(fig)
    (ax,) = fig.axes
    assert ax.get_title() == "layout + attention" and ax.get_ylabel() == "cosine of gradients"
    values = np.stack([record.curves["cosine.dga.ilgd"] for record in combined["layout + attention"].records])
    assert np.isfinite(values[:, :3]).all() and np.isnan(values[:, 3]).all(), "the last step is not guided"
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values[:, :3].mean(0))
    assert ax.lines[0].get_label() == "layout and ilgd" and ax.get_legend() is None


def test_cosines_plot_names_every_pair_and_shares_its_axis():
    one = {"cosine.dca.dga": np.array([0.5, np.nan, -0.5]), "cosine.dca.dma": np.array([0.1, 0.2, 0.3]), "dca": [1] * 3}
    other = {"cosine.dca.dga": np.array([0.1, 0.3, -0.1]), "cosine.dca.dma": np.array([0.3, 0.2, 0.1])}
    traces = {"none": curves_of({}, {}), "text + layout + drag": curves_of(one, other), "text + drag": curves_of(one)}
    fig = cosines_plot(traces, "message", "tiny")
    drawn(fig)
    left, right = fig.axes
    assert (left.get_title(), right.get_title()) == ("text + layout + drag", "text + drag")
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert right.lines[0].get_color() == left.lines[0].get_color() != left.lines[1].get_color()
    assert legend == ["text and layout", "text and drag"] and left.get_ylim() == right.get_ylim()
    np.testing.assert_array_equal(left.lines[0].get_xdata(), [1, 3])
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0.3, -0.3])
    np.testing.assert_allclose(left.lines[1].get_ydata(), [0.2, 0.2, 0.2])


def test_cosines_plot_without_any_cosine_is_an_empty_panel(combined):
    fig = cosines_plot({"none": combined["none"], "layout": combined["layout"]}, "nothing to compare", "tiny")
    drawn(fig)
    assert len(fig.axes) == 1 and not fig.axes[0].lines
