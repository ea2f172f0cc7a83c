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


def panels(fig, rows):
    """The panels of a grid, and what stands above its rows."""
    grid = np.array(fig.axes).reshape(rows, 2)
    return grid, [[text.get_text().replace("\n", " ") for text in row[0].texts] for row in grid]


def test_the_first_pictures_that_changed_stand_left_of_what_was_kept(pair):
    fig = best_of_grid({"guided": pair}, PROMPTS, "tiny", shown=2)
    FigureCanvasAgg(fig).draw()
    grid, said = panels(fig, 2)
    assert said == [[PROMPTS[k]] for k in OTHERS[:2]]
    assert [[ax.images[0].get_array().max() for ax in line] for line in grid] == [[0, 255]] * 2
    assert grid[0, 0].get_xlabel() == "attributes 0.25\nrelations - ✗", "not all attributes"
    assert grid[1, 1].get_xlabel() == "attributes 1.00\nrelations 0.50 ✗", "not all relations"
    assert [text.get_text() for text in fig.texts[2:]] == ["guided:\nfirst try", "guided:\nkept"]


def test_the_message_counts_all_that_were_drawn_again_and_the_worse_are_marked(pair):
    first, kept = pair
    kept[1][3]["relation_acc"], kept[1][3]["attribute_acc"] = 0.0, 0.5  # .25 in the mean after .375
    short = tuple((pictures[:4], rows) for pictures, rows in (first, kept))
    fig = best_of_grid({"guided": short}, PROMPTS, "tiny")
    assert "guided 3 (2 better, 1 worse)" in fig.texts[0].get_text().replace("\n", " "), "also without a picture"
    grid, _ = panels(fig, 2)
    assert [ax.get_xlabel().endswith(", worse ✗") for ax in grid.flat] == [False, False, False, True]


def test_fewer_changed_pictures_leave_panels_empty(pair):
    same = run(range(5), 0, 0.5)
    fig = best_of_grid({"a": pair, "b": (same, same)}, PROMPTS, "", shown=4)
    FigureCanvasAgg(fig).draw()
    filled = [[bool(ax.images) for ax in row] for row in np.array(fig.axes).reshape(6, 2)]
    assert filled == [[True] * 2, [False] * 2] * 3, "row by row, the pairs side by side"


def entry(mean):
    return {"mean": mean, "lo": mean - 0.1, "hi": mean + 0.2, "n": 5}


def test_budget_plot_joins_cases_over_cost():
    cases = ("none", "none_again", "full")
    costs = {"nfe": (40.0, 60.0, 88.0), "recall": (0.9, 0.95, 0.97)}
    metrics = {case: {name: entry(values[k]) for name, values in costs.items()} for k, case in enumerate(cases)}
    metrics["full"]["recall"]["n"] = 4
    lines = {"unguided": {"none": "once", "none_again": "again"}, "guided": {"full": "once"}}
    fig = budget_plot(metrics, lines, ("recall",), "a message", "tiny")
    FigureCanvasAgg(fig).draw()
    (ax,) = fig.axes
    assert [line.get_xdata().tolist() for line in ax.lines if line.get_linestyle() == "-"] == [[40, 60], [88]]
    assert ax.lines[0].get_ydata().tolist() == [0.9, 0.95]
    bars = ax.collections[0].get_segments()
    np.testing.assert_allclose(bars[1][:, 1], [0.85, 1.15])
    assert [text.get_text() for text in ax.texts] == ["once", "again", "once\n(n = 4)"]
    assert ax.get_ylabel() == "share of objects found\n↑ better" and "evaluations" in ax.get_xlabel()
