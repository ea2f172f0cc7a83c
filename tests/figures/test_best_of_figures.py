"""Figures of pictures that were drawn again, on runs and numbers by hand."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from helpers.figures.best_of import best_of_grid, budget_plot

PROMPTS = [f"a picture of {things}" for things in ("a car", "a fish", "a tree", "a house", "a ball")]
OTHERS = (1, 3, 4)  # the pictures that were drawn again


def run(seeds, value, share):
    """Five pictures of one grey and their rows."""
    rows = [
        {"seed": seed, "attribute_acc": share, "relation_acc": np.nan if n == 1 else 0.5}
        for n, seed in enumerate(seeds)
    ]
    return np.full((5, 64, 64, 3), value, np.uint8), rows


@pytest.fixture
def pair():
    return run(range(5), 0, 0.25), run([n + 100 * (n in OTHERS) for n in range(5)], 255, 1.0)


def test_the_first_pictures_that_changed_stand_above_what_was_kept(pair):
    fig = best_of_grid({"guided": pair}, PROMPTS, "a title", shown=2)
    FigureCanvasAgg(fig).draw()
    grid = np.array(fig.axes).reshape(2, 2)
    assert [ax.get_title().replace("\n", " ") for ax in grid[0]] == [PROMPTS[k] for k in OTHERS[:2]]
    assert [[ax.images[0].get_array().max() for ax in line] for line in grid] == [[0, 0], [255, 255]]
    assert grid[0, 0].get_xlabel() == "attributes 0.25\nrelations -"
    assert grid[1, 1].get_xlabel() == "attributes 1.00\nrelations 0.50"
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["guided: first", "guided: kept"]


def test_fewer_changed_pictures_leave_panels_empty(pair):
    same = run(range(5), 0, 0.5)
    fig = best_of_grid({"a": pair, "b": (same, same)}, PROMPTS, "", shown=4)
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
