"""Traces: what is recorded, that it costs nothing else, and that a folder is written whole or not at all."""

import json
import time

import numpy as np
import pytest
import torch

from helpers.conditions import Layout, Region
from helpers.files import MARKER
from helpers.guidance import CFG, Window
from helpers.guidance.dga import DGA
from helpers.sampling import sample
from helpers.trace import Trace

LAYOUTS = [
    Layout(prompt="a red ball", regions=[Region(phrase="red ball", box=(0.1, 0.2, 0.5, 0.7))]),
    Layout(
        prompt="a red car and a blue fish",
        regions=[Region(phrase="red car", box=(0, 0, 0.4, 0.4)), Region(phrase="blue fish", box=(0.5, 0.5, 1, 1))],
    ),
    Layout(prompt="a blue car", regions=[Region(phrase="blue car", box=(0.5, 0.2, 0.9, 0.7))]),
]
PROMPTS = [layout.prompt for layout in LAYOUTS]
STEPS = 5


def draw(tiny, segmenter, images=(1,), window=Window(0, 0.7), **options):  # noqa: B008
    trace = Trace(images)
    run = sample(tiny, PROMPTS, [CFG(5), DGA(segmenter, LAYOUTS, window=window)], steps=STEPS, trace=trace, **options)
    return trace, run


def test_records_every_step_also_outside_the_window(tiny, segmenter):
    trace, run = draw(tiny, segmenter, images=[1, 0])
    two, one = trace.records
    assert (two.index, two.prompt, two.seed, two.layout) == (1, PROMPTS[1], 1, LAYOUTS[1])
    assert two.frames.shape == (STEPS, 64, 64, 3) and two.frames.dtype == np.uint8
    assert two.maps["dga.masks"].shape == (STEPS, 2, 64, 64) and one.maps["dga.masks"].shape == (STEPS, 1, 64, 64)
    assert two.maps["dga.masks"].dtype == np.uint8 and two.maps["dga.masks"].reshape(STEPS, -1).max(1).all()
    assert two.maps["dga.iou"].shape == (STEPS, 2)
    for name in ("dga", "dga.coverage", "dga.size", "dga.distance", "eff_cfg"):
        assert np.isfinite(two.curves[name]).all(), name
    assert np.isfinite(two.curves["grad_rms"]).tolist() == [True] * 4 + [False]
    inside = run.curves["dga.coverage"][1, :4].numpy()
    np.testing.assert_allclose(two.curves["dga.coverage"][:4], inside, atol=1e-5)
    assert (two.final == (run.images[1] * 255).round().byte().permute(1, 2, 0).numpy()).all()
    np.testing.assert_allclose(two.frames[-1].astype(int), two.final.astype(int), atol=1)  # the last x0_hat
    assert trace.timesteps[0] == 999 and trace.sigmas == sorted(trace.sigmas, reverse=True)
    assert trace.settings["dga"]["window"] == {"start": 0, "stop": 0.7} and trace.settings["cfg"]["cfg_scale"] == 5


def test_looking_does_not_change_the_images(tiny, segmenter):
    plain = sample(tiny, PROMPTS, [CFG(5), DGA(segmenter, LAYOUTS)], steps=STEPS)
    assert torch.equal(draw(tiny, segmenter)[1].images, plain.images)
    asleep, run = draw(tiny, segmenter, window=Window(0, 0))
    assert torch.equal(run.images, sample(tiny, PROMPTS, [CFG(5)], steps=STEPS).images)
    assert asleep.records[0].maps["dga.masks"].any() and run.cost.backwards == 0


def test_looking_is_not_counted(tiny, segmenter):
    _, run = draw(tiny, segmenter, images=[0, 1], window=Window(0, 0))
    assert (run.cost.decodes, run.cost.auxiliary) == (3, 0)  # the finished pictures
    _, run = draw(tiny, segmenter, images=[0, 1])
    assert (run.cost.decodes, run.cost.auxiliary) == (3 * 4 + 3, 3 * 4)
    assert run.cost.backwards == 3 * 4 and run.cost.nfe == 2 * STEPS


def test_looking_takes_no_time(tiny, segmenter, monkeypatch):
    def slow(*arguments):
        time.sleep(0.3)
        return record(*arguments)

    record = Trace.record
    monkeypatch.setattr(Trace, "record", slow)
    _, run = draw(tiny, segmenter, window=Window(0, 0))
    assert 0 < run.cost.seconds < STEPS * 0.3


def test_the_batch_does_not_matter(tiny, segmenter):
    whole, _ = draw(tiny, segmenter, images=[0, 2])
    parts, _ = draw(tiny, segmenter, images=[0, 2], batch=1)
    for a, b in zip(whole.records, parts.records, strict=True):
        assert a.prompt == b.prompt
        np.testing.assert_allclose(a.frames.astype(int), b.frames.astype(int), atol=1)


def test_saved_and_loaded(tiny, segmenter, tmp_path):
    trace, _ = draw(tiny, segmenter, images=[1, 0])
    folder = trace.save(tmp_path / "trace")
    loaded = Trace.load(folder)
    assert (loaded.timesteps, loaded.sigmas, loaded.settings) == (trace.timesteps, trace.sigmas, trace.settings)
    for a, b in zip(trace.records, loaded.records, strict=True):
        assert (a.index, a.prompt, a.seed, a.layout) == (b.index, b.prompt, b.seed, b.layout)
        for x, y in [(a.frames, b.frames), (a.final, b.final)]:
            np.testing.assert_array_equal(x, y)
        assert a.maps.keys() == b.maps.keys() and a.curves.keys() == b.curves.keys()
        for key in a.maps:
            np.testing.assert_array_equal(a.maps[key], b.maps[key])
        for key in a.curves:
            np.testing.assert_array_equal(np.float32(a.curves[key]), b.curves[key])
    files = list(folder.iterdir())
    assert sorted(f.name for f in files) == [MARKER, "arrays.npz", "trace.json"]
    assert sum(f.stat().st_size for f in files) < 2 * 2e6
    json.loads((folder / "trace.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))


def test_a_failed_save_leaves_the_old_trace(tiny, segmenter, tmp_path, monkeypatch):
    trace, _ = draw(tiny, segmenter)
    folder = trace.save(tmp_path / "trace")
    before = (folder / "arrays.npz").read_bytes()
    trace.records[0].curves["odd"] = "not a number"
    with pytest.raises(ValueError):
        trace.save(folder)
    assert (folder / "arrays.npz").read_bytes() == before and Trace.load(folder).records[0].prompt == PROMPTS[1]


def test_refusals(tiny, segmenter, tmp_path):
    with pytest.raises(ValueError, match="the trace wants image 7 of a run of 3: count from 0"):
        draw(tiny, segmenter, images=[0, 7])
    with pytest.raises(FileNotFoundError, match=r"has no trace.json, so it is no trace: make one with sample"):
        Trace.load(tmp_path)
