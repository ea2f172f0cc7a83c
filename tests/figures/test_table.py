"""Tables of metrics: what a cell says, and its colour."""

import numpy as np
from drawing import drawn, entry, lost, texts

from helpers.figures.table import ablation_table

METRICS = {
    "none": {"box_iou": entry(0.1), "kernel_distance": entry(0.2)},
    "full": {"box_iou": entry(0.6, 0.5), "kernel_distance": entry(0.3, 0.1)},
    "window_30": {"box_iou": entry(0.12, 0.02), "kernel_distance": entry(0.1, -0.1)},
}


def test_ablation_table_colours_by_what_is_better():
    broken = {**METRICS, "empty": {"box_iou": lost(None), "kernel_distance": lost(float("nan"))}}
    fig = ablation_table(broken, ["box_iou", "kernel_distance"], "tiny")
    drawn(fig)
    verdicts = np.asarray(fig.axes[0].collections[0].get_array()).reshape(4, 2)
    assert verdicts.tolist() == [[0, 0], [1, -1], [0, 1], [0, 0]]
    assert "0.600\n+0.500 [+0.450, +0.550]" in texts(fig) and texts(fig).count("-") == 2


def cells(fig) -> list[list[str]]:
    ax = fig.axes[0]
    columns = len(ax.get_xticklabels())
    found = [text.get_text() for text in ax.texts]
    return [found[k : k + columns] for k in range(0, len(found), columns)]


def test_a_table_compares_every_metric_with_what_it_is_told():
    gain, loss = ({"mean": d, "lo": d - 0.05, "hi": d + 0.05} for d in (0.3, -0.3))
    metrics = {
        "layout": {"box_iou": entry(0.6, 0.5), "drag_md": entry(9.0)},
        "layout_drag": {
            "box_iou": entry(0.5, 0.4) | {"diff_layout": loss, "diff_drag": gain},
            "drag_md": entry(2.0, 0.0) | {"diff_layout": gain, "diff_drag": loss},
        },
    }
    fig = ablation_table(metrics, ["box_iou", "drag_md"], "tiny", {"box_iou": "diff_layout"})
    drawn(fig)
    verdicts = np.asarray(fig.axes[0].collections[0].get_array()).reshape(2, 2)
    assert verdicts.tolist() == [[0, 0], [-1, 0]], "drag_md is compared as always"
    assert cells(fig)[0] == ["0.600", "9.000\n+0.000 [-0.050, +0.050]"], "no difference, only a mean"
    assert cells(fig)[1][0] == "0.500\n-0.300 [-0.350, -0.250]"
    both = ablation_table(metrics, ["box_iou", "drag_md"], "tiny", {"box_iou": "diff_drag", "drag_md": "diff_drag"})
    verdicts = np.asarray(both.axes[0].collections[0].get_array()).reshape(2, 2)
    assert verdicts.tolist() == [[0, 0], [1, 1]], "less distance is better"


def test_a_table_leaves_blank_what_does_not_exist():
    metrics = {
        "none": {"drag_md": lost(float("nan")), "box_iou": entry(0.1)},
        "drag": {"drag_md": entry(3.0) | {"diff": lost(float("nan"))["diff"]}, "box_iou": lost(None)},
    }
    fig = ablation_table(metrics, ["drag_md", "box_iou"], "tiny", {"drag_md": "diff"})
    drawn(fig)
    assert cells(fig) == [["-", "0.100\n+0.000 [-0.050, +0.050]"], ["3.000", "-"]]
    assert not np.asarray(fig.axes[0].collections[0].get_array()).any()
    assert "nan" not in " ".join(texts(fig))
