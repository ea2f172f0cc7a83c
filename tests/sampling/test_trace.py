"""Traces: what is recorded, that it costs nothing else, and that a folder is written whole or not at all."""

import json
import time

import numpy as np
import pytest
import torch

from helpers.conditions import Layout, Region
from helpers.files import MARKER
from helpers.guidance.cfg import CFG
from helpers.guidance.dga import DGA
from helpers.sampling.hooks import Recurrence, Window
from helpers.sampling.loop import denoise, sample
from helpers.sampling.strength import Raw
from helpers.sampling.trace import Record, Trace

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


def methods(segmenter, window=(0, 0.7)):
    """Every step once, with the gradient as it is."""
    plain = {"strength": Raw(), "recurrence": Recurrence(), "size_weight": 1.0}
    return [CFG(5), DGA(segmenter=segmenter, layouts=LAYOUTS, window=window, **plain)]


def draw(tiny, segmenter, images=(1,), window=(0, 0.7), **options):
    trace = Trace(images)
    return trace, sample(tiny, PROMPTS, methods(segmenter, window), steps=STEPS, trace=trace, **options)


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
    plain = sample(tiny, PROMPTS, methods(segmenter), steps=STEPS)
    assert torch.equal(draw(tiny, segmenter)[1].images, plain.images)
    asleep, run = draw(tiny, segmenter, window=(0, 0))
    assert torch.equal(run.images, sample(tiny, PROMPTS, [CFG(5)], steps=STEPS).images)
    assert asleep.records[0].maps["dga.masks"].any() and run.cost.backwards == 0


def test_looking_is_not_counted(tiny, segmenter):
    _, run = draw(tiny, segmenter, images=[0, 1], window=(0, 0))
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
    _, run = draw(tiny, segmenter, window=(0, 0))
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


def same(one, other):
    """Two records of one picture."""
    assert (one.index, one.prompt, one.seed, one.layout) == (other.index, other.prompt, other.seed, other.layout)
    np.testing.assert_array_equal(one.frames, other.frames)
    np.testing.assert_array_equal(one.final, other.final)
    for kind in ("maps", "curves"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        assert mine.keys() == theirs.keys()
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key])


def test_by_hand_it_records_the_same(tiny, segmenter):
    sampled, _ = draw(tiny, segmenter, images=[1, 0])
    watched = Trace([1, 0])
    steps = watched.watch(denoise(tiny, PROMPTS, methods(segmenter), steps=STEPS))
    assert [(ctx.i, ctx.x_t.requires_grad) for ctx in steps] == [(i, False) for i in range(STEPS)]
    for one, other in zip(sampled.records, watched.records, strict=True):
        same(one, other)
    assert (sampled.timesteps, sampled.sigmas, sampled.settings) == (
        watched.timesteps,
        watched.sigmas,
        watched.settings,
    )


def test_a_run_that_is_left_half_way_leaves_what_was_recorded(tiny, segmenter):
    trace = Trace([1])
    for ctx in trace.watch(denoise(tiny, PROMPTS, methods(segmenter), steps=STEPS)):
        if ctx.i == 2:
            break
    (record,) = trace.records
    assert record.frames[:3].reshape(3, -1).std(1).all() and not record.frames[3:].any() and record.final is None
    assert np.isfinite(record.curves["dga"]).tolist() == [True] * 3 + [False] * 2


def test_of_a_repeated_step_the_last_is_kept(tiny, segmenter):
    repeated = DGA(segmenter=segmenter, layouts=LAYOUTS, recurrence=Recurrence(2, Window(0, 0.5)))
    trace = Trace([0])
    seen = list(trace.watch(denoise(tiny, PROMPTS, [repeated], steps=STEPS)))
    assert len(seen) == STEPS + 3
    kept = [float(ctx.curves["dga"][0]) for ctx in seen if not ctx.again and "dga" in ctx.curves]
    np.testing.assert_allclose(trace.records[0].curves["dga"][:4], kept, rtol=1e-6)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("arrays.npz", lambda data: data[: len(data) // 2]),
        ("arrays.npz", lambda data: b""),
        ("arrays.npz", lambda data: data[:60] + bytes(40) + data[100:]),
        ("trace.json", lambda data: data[: len(data) // 2]),
        ("trace.json", lambda data: b"[]"),
        ("trace.json", lambda data: data.replace(b'"records"', b'"others"')),
        ("trace.json", lambda data: data.replace(b'"seed"', b'"sed"')),
        ("trace.json", lambda data: b"\xff" + data),
    ],
)
def test_a_damaged_trace_says_so(tmp_path, file, damage):
    trace, picture = Trace([1]), np.zeros((4, 4, 3), np.uint8)
    trace.records = [Record(1, PROMPTS[1], 1, frames=np.stack([picture] * 2), final=picture)]
    folder = trace.save(tmp_path / "trace")
    assert Trace.load(folder).records[0].seed == 1
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    with pytest.raises(ValueError, match=r"trace is damaged .* delete the folder and make it again with sample"):
        Trace.load(folder)


def test_refusals(tiny, segmenter, tmp_path):
    for wrong in ([0, 7], [0, 0], [-1]):
        with pytest.raises(ValueError, match="of a run of 3: name each once, counted from 0"):
            draw(tiny, segmenter, images=wrong)
    with pytest.raises(FileNotFoundError, match=r"has no trace.json, so it is no trace: make one with sample"):
        Trace.load(tmp_path)
