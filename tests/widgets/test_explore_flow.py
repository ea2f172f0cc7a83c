"""The explorer of flow: colours and arrows, errors known on paper, what it shows when controls move, and bad input."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flow_traces import ARRIVED, BOX, GUIDED, STEPS, WAY, drag, picture, record, trace
from PIL import Image

from helpers.figures import overlay
from helpers.guidance.dma import DMA
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace
from helpers.widgets.common import load_traces
from helpers.widgets.flow import (
    colors,
    drag_errors,
    draw_drag,
    draw_flow,
    explore_flow,
    frames_of,
    longest,
    place_of,
    wheel,
)

STILL = (0, 1, 3)  # source, mask, reference


@pytest.fixture
def traces():
    """Two drags, the second goes back: the baseline trembles, full arrives, displacement goes too far."""
    drags = drag(), drag((-4, 20), prompt="a blue ball")
    return {
        case: trace(GUIDED[case], record(share, drags[0]), record(share[::-1], drags[1]))
        for case, share in ARRIVED.items()
    }


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


# --- colours, arrows, places -----------------------------------------------------------------------------------------


def test_a_colour_means_the_same_flow_whatever_else_is_shown():
    flows = np.zeros((2, 2, 8, 8), np.float16)
    flows[0, 0, 0, 0], flows[1, 0, 0, 0], flows[1, 1, 4, 4] = 5, 5, 900
    first, second = colors(flows, 10)
    assert (first[0, 0] == second[0, 0]).all() and (first[0, 0] == colors(flows[:1], 10)[0, 0, 0]).all()
    assert (first[1:] == 255).all(), "no flow is white"


def test_longer_flows_have_fuller_colours_up_to_the_rim_of_the_wheel():
    lengths = np.array([2, 5, 10, 15], np.float32)
    flows = np.stack([lengths, 0 * lengths])[None, :, None]
    row = colors(flows, 10)[0, 0].astype(int)
    saturation = row.max(1) - row.min(1)
    assert (np.diff(saturation)[:2] > 0).all() and (row[2] == row[3]).all()
    legend = pixels_of(wheel(96))
    np.testing.assert_allclose(legend[48, 94], row[2], atol=12)
    assert (legend[0, 0] == 255).all() and (legend[48, 48] > 240).all()


def test_a_drag_is_an_arrow_from_handle_to_target():
    changed = np.abs(pixels_of(draw_drag(drag())) - overlay.enlarge(picture())).sum(2) > 30
    y, x = np.nonzero(changed)
    handle, target = 4 * (np.array([15.5, 27.5])), 4 * (np.array([15.5, 27.5]) + WAY)
    assert (x.min(), y.min()) == pytest.approx(handle, abs=12) and (x.max(), y.max()) == pytest.approx(target, abs=12)
    along = np.linspace(handle, target, 50).round().astype(int)[3:-3]
    assert changed[along[:, 1], along[:, 0]].all()


def test_flow_has_arrows_of_true_length_where_something_moves():
    flows = np.zeros((2, 2, 64, 64), np.float16)
    flows[0, :, 30:36, 12:18] = np.array([20, 0])[:, None, None]
    with_flow, without = (pixels_of(data) for data in draw_flow(flows, (64, 64), 20))
    assert (without == 255).all()
    black = np.nonzero((with_flow < 60).all(2))
    assert black[1].min() >= 4 * 12 - 2 and black[1].max() == pytest.approx(4 * (15 + 20 + 0.5), abs=14)
    assert black[0].min() >= 4 * 28 and black[0].max() <= 4 * 38
    large = pixels_of(draw_flow(flows[:1] * 8, (512, 512), 160)[0])
    assert (large == with_flow).all(), "a source of 512 pixels has maps of 64, and flows eight times as long"


def test_the_wanted_place_is_the_mask_moved():
    (mask,) = place_of(record([0] * STEPS, drag())).masks(64, 64)
    assert mask.sum() == 16 * 16 and mask[30:46, 32:48].all()
    big = record([0] * STEPS, drag(side=512))
    assert torch.equal(place_of(big).masks(64, 64)[0], mask), "512 pixels"
    away = record([0] * STEPS, drag())
    away.maps["dma.reference"] = away.maps["dma.reference"] + np.float16(100)
    assert place_of(away) is None
    assert len(frames_of(away, (-0.5, 2.5), {"error": 1, "warp": 1, "flow": 1, "loss": 1}).pictures) == 6


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_of_a_known_motion():
    arrived = [0, 0.25, 0.5, 0.75, 1]
    errors = drag_errors(record(arrived, drag()))
    np.testing.assert_allclose(errors["flow"], 26 * (1 - np.array(arrived)), atol=0.01)
    np.testing.assert_allclose(errors["warp"], 0.5 * (1 - np.array(arrived)), atol=0.003)
    np.testing.assert_allclose(drag_errors(record(arrived, drag(side=512)))["flow"], 8 * errors["flow"], rtol=1e-3)


def test_what_leaves_the_picture_is_not_counted():
    out = record([0, 0, 1, 1, 1], drag((-13, 0)))
    seen = np.broadcast_to(np.arange(64) >= 13, (64, 64))[BOX]
    out.maps["dma.error"] = np.zeros((STEPS, 64, 64), np.uint8)
    out.maps["dma.error"][:, BOX[0], BOX[1]] = 255 * seen
    np.testing.assert_allclose(drag_errors(out)["warp"], 1)
    out.maps["dma.reference"] = out.maps["dma.reference"] + np.float16(100)
    np.testing.assert_allclose(drag_errors(out)["warp"], 0)


def net_of_flow(source, target):
    """A stand-in for an optical flow: how much darker a pixel has become is how far it has moved."""
    change = (target - source).mean(1, keepdim=True)
    return torch.cat([4 * change, -2 * change], 1)


def net_of_clicks(images, points):
    """A stand-in for a click segmenter: what is not background."""
    return torch.where(images.mean(1) < 0.8, 5.0, -5.0)


def test_errors_of_a_real_run_are_those_of_the_method(tiny, tmp_path):
    asked = [drag((8, 0), prompt="a red ball"), drag((-4, 12), prompt="a blue ball")]
    nets = {"flow": net_of_flow, "clicks": net_of_clicks, "features": lambda images: F.avg_pool2d(images, 4)}
    traces = {"none": Trace(range(2)), "full": Trace(range(2))}
    for (case, recorded), weight in zip(traces.items(), (0.0, 90.0)):
        method = DMA(drags=asked, weight=weight, window=(0, 0.5), recurrence={"times": 1}, **nets)
        sample(tiny, [of.prompt for of in asked], [method], steps=4, trace=recorded)
        traces[case] = Trace.load(recorded.save(tmp_path / case / "trace"))
    for entry in traces["full"].records:
        np.testing.assert_allclose(drag_errors(entry)["warp"], entry.curves["dma.appearance"], atol=0.003)
    box = explore_flow(traces)
    assert [label for label, _ in box.children[0].children[0].options] == [
        "a red ball (seed 0)",
        "a blue ball (seed 1)",
    ]


# --- the explorer ----------------------------------------------------------------------------------------------------


class Shown:
    """The parts of an explorer."""

    def __init__(self, box):
        (self.prompt, self.method), (self.play, self.slider) = (row.children for row in box.children[:2])
        self.label, self.table = box.children[2], box.children[4]
        self.columns = [column.children for column in box.children[3].children]

    def captions(self):
        return [tile.children[0].value for row in self.columns[0][1:3] for tile in row.children]

    def pictures(self):
        """Per column the PNGs of the six pictures and of the curves."""
        found = []
        for _, above, below, curves in self.columns:
            images = [*(tile.children[1] for tile in (*above.children, *below.children)), curves]
            for image in images:
                Image.open(BytesIO(image.value)).verify()
            found.append([image.value for image in images])
        return found


def test_it_follows_slider_prompt_and_method(traces, tmp_path):
    for case, made in traces.items():
        made.save(tmp_path / case / "trace")
    shown = Shown(explore_flow(tmp_path))
    assert (shown.slider.min, shown.slider.max, shown.play.max) == (1, STEPS, STEPS)
    assert "none" in shown.columns[0][0].value and "full" in shown.columns[1][0].value, "the baseline stands left"
    assert shown.method.options == ("full", "displacement"), "full is shown first"
    words = ("source", "mask", "decoded", "reference", "estimated", "warp")
    assert [word for word, caption in zip(words, shown.captions()) if word in caption] == list(words)

    first = shown.pictures()
    assert first[0][0] == first[1][0] and first[0][2] != first[1][2]
    shown.slider.value = 4
    assert "step 4 of 5" in shown.label.value and "t = 399" in shown.label.value
    assert "full is not guided here" in shown.label.value
    fourth = shown.pictures()
    for before, after in zip(first, fourth):
        same = [k for k, (a, b) in enumerate(zip(before, after)) if a == b]
        assert set(same) >= set(STILL), "what is asked for does not move"
    assert [k for k, (a, b) in enumerate(zip(first[1], fourth[1])) if a == b] == list(STILL)

    shown.prompt.value = 1
    other = shown.pictures()
    assert all(a != b for before, after in zip(fourth, other) for a, b in zip(before, after))
    shown.method.value = "displacement"
    assert "displacement" in shown.columns[1][0].value and shown.pictures()[1][4] != other[1][4]
    shown.slider.value = 3
    assert "displacement is guided here" in shown.label.value


def test_the_table_says_both_errors_and_the_legend_the_scale(traces):
    shown = Shown(explore_flow(traces))
    shown.slider.value = 2
    cells = shown.table.value.replace("</td>", "").split("<td>")
    assert [float(cells[k].split("<")[0]) for k in (2, 3)] == pytest.approx([0.5 * 0.9, 0.5 * 0.5], abs=0.003)
    assert [float(cells[k].split("<")[0]) for k in (5, 6)] == pytest.approx([26 * 0.9, 26 * 0.5], abs=0.06)
    assert "26 px or more" in shown.table.value and "data:image/png;base64" in shown.table.value
    assert longest(drag((-4, 20))) == pytest.approx(20.4, abs=0.1)


def test_baseline_and_method_share_their_scales(traces):
    shown = Shown(explore_flow({"none": traces["none"], "same": traces["none"]}))
    left, right = shown.pictures()
    assert left == right
    worse = {**traces, "worse": trace(0.6, *(record([0] * STEPS, r.drag, wrong=1) for r in traces["none"].records))}
    del worse["full"], worse["displacement"]
    beside = Shown(explore_flow(worse)).pictures()[0]
    assert [k for k, (a, b) in enumerate(zip(left, beside)) if a != b] == [5, 6], "warp error and curves"


def test_nothing_is_sampled_and_pictures_are_made_once(traces, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a network ran")

    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)
    shown = Shown(explore_flow(traces))
    made = []
    monkeypatch.setattr("helpers.widgets.flow.frames_of", lambda *args: made.append(args))
    for step in range(1, STEPS + 1):
        shown.slider.value = step
    assert not made


# --- bad input -------------------------------------------------------------------------------------------------------


def test_traces_that_do_not_belong_together_are_refused(traces, tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro sample_dma@none sample_dma@full"):
        explore_flow(tmp_path)
    with pytest.raises(ValueError, match="give a baseline and at least one case"):
        explore_flow({"none": traces["none"]})
    with pytest.raises(ValueError, match="'full' is empty: give it to sample"):
        explore_flow({"none": traces["none"], "full": Trace([0])})
    blind = trace(0.6, *(replace(r, maps={}) for r in traces["full"].records))
    with pytest.raises(ValueError, match="'full' has no flow: sample it with helpers.experiments.dma.guidance_of"):
        explore_flow({"none": traces["none"], "full": blind})
    elsewhere = trace(0.6, *(replace(r, drag=drag((3, 3), prompt=r.prompt)) for r in traces["full"].records))
    with pytest.raises(ValueError, match="'none' and 'full' differ in prompts, seeds or steps, or in drags"):
        explore_flow({"none": traces["none"], "full": elsewhere})


def test_a_folder_gives_the_traces_that_show_the_same_as_the_baseline(traces, tmp_path):
    for case, made in traces.items():
        made.save(tmp_path / case / "trace")
    for case in ("none_drawn", "full_drawn"):
        trace(0.6, record([1] * STEPS, drag((1, 2)), seed=7)).save(tmp_path / case / "trace")
    assert list(load_traces(tmp_path)) == ["none", "full", "displacement"]
    assert list(load_traces(tmp_path, "none_drawn")) == ["none_drawn", "full_drawn"]
    with pytest.raises(FileNotFoundError, match="'nothing' is compared here with others"):
        load_traces(tmp_path, "nothing")
