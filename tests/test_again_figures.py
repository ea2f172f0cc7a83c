"""Figures of pictures that were drawn again, on runs and numbers by hand."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from helpers.again_figures import again_grid, budget_plot
from helpers.drawn import Drawn
from helpers.miniature.benchmark import load_captioned

SCENES = load_captioned("test", "long")[:5]
AGAIN = (1, 3, 4)  # the scenes that were drawn again


def run(seeds, value):
    images = torch.full((5, 3, 64, 64), value)
    return Drawn(images, [{"id": scene.id, "seed": seed} for scene, seed in zip(SCENES, seeds, strict=True)], [])


@pytest.fixture
def pair():
    first, kept = list(range(5)), [n + 100 * (n in AGAIN) for n in range(5)]
    return run(first, 0.0), run(kept, 1.0)


def rows(share):
    return [{"attribute_acc": share, "relation_acc": np.nan if n == 1 else 0.5} for n in range(5)]


def test_the_first_pictures_that_changed_stand_above_what_was_kept(pair):
    fig = again_grid({"guided": pair}, {"guided": (rows(0.25), rows(1.0))}, SCENES, "a title", shown=2)
    FigureCanvasAgg(fig).draw()
    grid = np.array(fig.axes).reshape(2, 2)
    assert [ax.get_title().replace("\n", " ") for ax in grid[0]] == [SCENES[k].prompt for k in AGAIN[:2]]
    assert [[ax.images[0].get_array().max() for ax in line] for line in grid] == [[0, 0], [255, 255]]
    assert grid[0, 0].get_xlabel() == "attributes 0.25\nrelations -"
    assert grid[1, 1].get_xlabel() == "attributes 1.00\nrelations 0.50"
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["guided: first", "guided: kept"]


def test_fewer_changed_pictures_leave_panels_empty(pair):
    same = run(range(5), 0.0)
    fig = again_grid({"a": pair, "b": (same, same)}, {name: (rows(0), rows(1)) for name in "ab"}, SCENES, "", shown=4)
    FigureCanvasAgg(fig).draw()
    filled = [[bool(ax.images) for ax in line] for line in np.array(fig.axes).reshape(4, 4)]
    assert filled == [[True] * 3 + [False]] * 2 + [[False] * 4] * 2


def entry(mean):
    return {"mean": mean, "lo": mean - 0.1, "hi": mean + 0.2, "n": 5}


def test_budget_plot_joins_cases_over_cost():
    cases = ("none", "none_again", "full")
    costs = {"nfe": (40.0, 60.0, 88.0), "seconds": (1.0, 1.5, 5.0), "recall": (0.9, 0.95, 0.97)}
    metrics = {case: {name: entry(values[k]) for name, values in costs.items()} for k, case in enumerate(cases)}
    metrics["full"]["recall"]["n"] = 4
    fig = budget_plot(metrics, {"unguided": cases[:2], "guided": cases[2:]}, ("recall",), "a title")
    FigureCanvasAgg(fig).draw()
    above, below = fig.axes
    lines = [[line.get_xdata().tolist() for line in ax.lines if line.get_linestyle() == "-"] for ax in fig.axes]
    assert lines == [[[40, 60], [88]], [[1, 1.5], [5]]]
    assert above.lines[0].get_ydata().tolist() == [0.9, 0.95]
    bars = above.collections[0].get_segments()
    np.testing.assert_allclose(bars[1][:, 1], [0.85, 1.15])
    assert [text.get_text() for text in below.texts] == ["once", "again", "once (n = 4)"]
    assert above.get_ylabel() == "recall ↑" and below.get_xlabel() == "seconds per picture"
