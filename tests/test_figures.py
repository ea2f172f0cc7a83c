"""Figures and the explorer's pictures, from Traces of a tiny model: what they show, in which order, and bad input."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from helpers import figures, overlay
from helpers.conditions import Layout, Region, encode_mask
from helpers.guidance import CFG, Window
from helpers.guidance.dga import DGA
from helpers.sampling import sample
from helpers.trace import Trace
from helpers.widgets import explore_masks, load_traces, measure

DISC = np.hypot(*(np.indices((64, 64)) - 20)) < 12
LAYOUT = Layout(
    prompt="a red car and a blue fish",
    regions=[
        Region(phrase="red car", box=(0.125, 0.125, 0.5, 0.5), mask=encode_mask(DISC)),
        Region(phrase="blue fish", box=(0.5, 0.5, 1, 1), mask=encode_mask(DISC[::-1, ::-1])),
    ],
)
STEPS = 5
ASKED = {"none": (LAYOUT.boxes_only(), 0), "full": (LAYOUT.boxes_only(), 0.6), "full_masks": (LAYOUT.masks_only(), 0.6)}


def record(tiny, segmenter, layout, stop, seeds=(0, 1)) -> Trace:
    trace = Trace(range(len(seeds)))
    methods = [CFG(5), DGA(segmenter, [layout] * len(seeds), window=Window(0, stop))]
    sample(tiny, [layout.prompt] * len(seeds), methods, steps=STEPS, seeds=seeds, trace=trace)
    return trace


@pytest.fixture(scope="module")
def traces(tiny, segmenter):
    return {case: record(tiny, segmenter, *asked) for case, asked in ASKED.items()}


def entry(mean, diff=0.0, half=0.05):
    interval = {"mean": diff, "lo": diff - half, "hi": diff + half}
    return {"mean": mean, "lo": mean - half, "hi": mean + half, "n": 96, "diff": interval}


def lost(value):
    """A metric that does not exist, such as the colours of objects that are never there."""
    return {"mean": value, "diff": {"mean": value, "lo": value, "hi": value}}


METRICS = {
    "none": {"box_iou": entry(0.1), "kernel_distance": entry(0.2)},
    "full": {"box_iou": entry(0.6, 0.5), "kernel_distance": entry(0.3, 0.1)},
    "window_30": {"box_iou": entry(0.12, 0.02), "kernel_distance": entry(0.1, -0.1)},
}


def drawn(fig: Figure) -> np.ndarray:
    """A figure as pixels: that it can be drawn at all, and not empty."""
    stream = BytesIO()
    fig.savefig(stream, dpi=50)
    pixels = np.asarray(Image.open(stream).convert("RGB"))
    assert pixels.std() > 5
    return pixels


def texts(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def test_a_box_covers_the_pixels_it_names():
    masks = overlay.wanted(LAYOUT.boxes_only(), side=128)
    assert masks.shape == (2, 128, 128)
    rows, columns = np.nonzero(masks[0])
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (16, 64, 16, 64)
    assert masks[0].sum() == 48 * 48


def test_a_silhouette_keeps_its_share_of_the_picture():
    masks = overlay.wanted(LAYOUT.masks_only(), side=256)
    assert masks[0].mean() == pytest.approx(DISC.mean(), rel=0.02)


def test_found_masks_are_filled_and_outlined_and_the_rest_is_left():
    picture = np.full((64, 64, 3), 100, np.uint8)
    over = overlay.draw_found(picture, DISC[None])
    inner = overlay.edge(DISC, 3)
    assert (over[~DISC] == 100).all()
    assert (over[overlay.edge(DISC, 2)] == overlay.rgb(0)).all()
    filled = DISC & ~inner
    np.testing.assert_allclose(over[filled][0], 100 + 0.4 * (overlay.rgb(0) - 100.0), atol=1)
    assert (picture == 100).all(), "the picture itself is not painted on"


def test_wanted_places_change_nothing_but_their_border():
    picture = np.full((256, 256, 3), 100, np.uint8)
    over = overlay.draw_wanted(picture, LAYOUT.boxes_only())
    changed = (over != picture).any(-1)
    border = np.any([overlay.edge(mask, 2) for mask in overlay.wanted(LAYOUT.boxes_only())], 0)
    assert (changed == border).all()


def test_enlarging_repeats_pixels():
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (overlay.enlarge(frame, 4) == frame.repeat(2, 0).repeat(2, 1)).all()


def test_case_grid_has_the_baseline_left_and_says_the_scores(traces):
    scores = {case: [{"box_iou": 0.25 + n / 8, "mask_iou": 0.5}] * 2 for n, case in enumerate(traces)}
    fig = figures.case_grid(traces, scores, "tiny, 5 steps")
    drawn(fig)
    assert [ax.get_title() for ax in fig.axes[:4]] == ["wanted", "none", "full", "full masks"]
    assert [ax.get_xlabel() for ax in fig.axes[1:4]] == [f"IoU: box {v}, mask 0.50" for v in ("0.25", "0.38", "0.50")]
    assert len(fig.axes) == 2 * 4
    first, second = fig.axes[1].images[0].get_array(), fig.axes[5].images[0].get_array()
    assert (first != second).any(), "another row is another picture"
    plain = overlay.enlarge(traces["none"].records[0].final)
    untouched = ~np.any([overlay.edge(mask, 3) for mask in overlay.wanted(LAYOUT.boxes_only())], 0)
    assert (np.asarray(first)[untouched] == plain[untouched]).all()


def test_steps_strip_shows_every_row_and_shades_the_window(traces):
    fig = figures.steps_strip(traces["none"], traces["full"], ("none", "full"), "tiny, DGA", shown=3)
    drawn(fig)
    found = texts(fig)
    assert any("a red car and a blue fish" in text and "seed 0" in text and "5 steps" in text for text in found)
    times = traces["full"].timesteps
    assert [f"step {k + 1}, t={times[k]}" in found for k in (0, 2, 4)] == [True] * 3
    images, curves = fig.axes[:16], fig.axes[16:]
    assert all(ax.images for ax in images) and len(curves) == 4
    left, right = curves[0].patches[0].get_x(), curves[0].patches[0].get_x() + curves[0].patches[0].get_width()
    assert (left, right) == (0.5, 3.5), "three of five steps are guided"
    np.testing.assert_allclose(curves[0].lines[1].get_ydata(), traces["full"].records[0].curves["dga.coverage"])
    assert len(curves[3].lines) == 1, "the baseline has no gradient"


def test_cases_plot_draws_mean_and_interval():
    fig = figures.cases_plot(METRICS, ["box_iou", "kernel_distance"], "tiny")
    drawn(fig)
    iou, far = fig.axes
    assert [label.get_text() for label in iou.get_yticklabels()] == list(METRICS)
    points = next(line for line in iou.lines if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_xdata(), [0.1, 0.6, 0.12])
    spans = [tuple(line.get_xdata()) for line in iou.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(span, (0.55, 0.65)) for span in spans)
    assert (iou.get_xlabel(), far.get_xlabel()) == ("box_iou ↑", "kernel_distance ↓")


def test_ablation_table_colours_by_what_is_better():
    broken = {**METRICS, "empty": {"box_iou": lost(None), "kernel_distance": lost(float("nan"))}}
    fig = figures.ablation_table(broken, ["box_iou", "kernel_distance"], "tiny")
    drawn(fig)
    verdicts = np.asarray(fig.axes[0].collections[0].get_array()).reshape(4, 2)
    assert verdicts.tolist() == [[0, 0], [1, -1], [0, 1], [0, 0]]
    assert "0.600\n+0.500 [+0.450, +0.550]" in texts(fig) and texts(fig).count("-") == 2


def test_objects_plot_has_a_row_per_caption_and_leaves_out_what_was_not_drawn():
    rows = [
        {"guidance": guidance, "caption": caption, "objects": n, "recall": share}
        for caption, counts in (("long", (1, 2, 6)), ("short", (1, 2)))
        for guidance, share in (("none", 0.25), ("full", 0.75))
        for n in counts
    ]
    fig = figures.objects_plot(pd.DataFrame(rows), ("recall",), "a title")
    drawn(fig)
    long, short = fig.axes
    assert (long.get_ylabel(), short.get_ylabel(), long.get_title()) == ("long captions", "short captions", "recall")
    points = [line for line in short.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert [line.get_ydata().tolist() for line in points] == [[0.25, 0.25], [0.75, 0.75]]
    assert [text.get_text() for text in long.get_legend().get_texts()] == ["none", "full"]


def test_strength_plot_orders_strengths_as_numbers():
    sweep = {str(s): {"box_iou": entry(s / 20), "kernel_distance": entry(s / 10)} for s in (0.0, 10.0, 2.0)}
    fig = figures.strength_plot(sweep, "box_iou", "tiny, dev")
    drawn(fig)
    np.testing.assert_allclose(fig.axes[0].lines[0].get_xdata(), [0, 2, 10])
    assert [text for text in texts(fig) if text in ("0", "2", "10")][-3:] == ["0", "2", "10"]


def test_measuring_against_the_own_layout_gives_what_was_recorded(traces):
    for case in traces:
        record = traces[case].records[0]
        measured = measure(record, record.layout)
        np.testing.assert_allclose(measured["iou"], record.maps["dga.iou"], atol=0.01)
        np.testing.assert_allclose(measured["coverage"], record.curves["dga.coverage"], atol=0.01)


def test_the_explorer_follows_slider_prompt_and_method(traces, tmp_path):
    for case, trace in traces.items():
        trace.save(tmp_path / case / "trace")
    box = explore_masks(tmp_path)
    (prompt, method), (play, slider) = (row.children for row in box.children[:2])
    columns = [column.children for column in box.children[3].children]

    def pictures():
        images = [widget for _, pair, curves in columns for widget in (*pair.children, curves)]
        for image in images:
            Image.open(BytesIO(image.value)).verify()
        return [image.value for image in images]

    assert (slider.min, slider.max, play.max) == (1, STEPS, STEPS)
    assert "none" in columns[0][0].value and "full" in columns[1][0].value, "the baseline stands left"
    assert method.options == ("full", "full_masks")
    before = pictures()
    slider.value = 4
    assert "step 4 of 5" in box.children[2].value and "not guided" in box.children[2].value
    moved = pictures()
    assert all(a != b for a, b in zip(before, moved))
    prompt.value = 1
    other = pictures()
    assert all(a != b for a, b in zip(moved, other))
    method.value = "full_masks"
    assert "full_masks" in columns[1][0].value
    assert pictures()[0] != other[0], "the baseline is compared with silhouettes, too"
    slider.value = 3
    assert "full_masks is guided here" in box.children[2].value


def test_traces_that_do_not_belong_together_are_refused(tiny, segmenter, traces, tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro sample_dga@none"):
        load_traces(tmp_path)
    with pytest.raises(ValueError, match="give a baseline and at least one case"):
        explore_masks({"none": traces["none"]})
    other = record(tiny, segmenter, LAYOUT.boxes_only(), 0.6, seeds=(0, 5))
    with pytest.raises(ValueError, match="'none' and 'full' differ in prompts, seeds or steps"):
        explore_masks({"none": traces["none"], "full": other})
    blind = Trace([0])
    sample(tiny, [LAYOUT.prompt], [CFG(5)], steps=STEPS, trace=blind)
    with pytest.raises(ValueError, match="'full' has no masks"):
        explore_masks({"none": traces["none"], "full": blind})
