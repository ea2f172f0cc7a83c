"""The benchmark of a case: the same pictures however many processes draw, and the Trace is of these pictures."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from helpers.benchmarks.miniature import load_cases
from helpers.experiments.dga import Experiment, guidance_of, watching
from helpers.params import load
from helpers.perception.segmenter import Segmenter
from helpers.pipeline.draw import draw_benchmark

PARAMS = load(Experiment, "smoke")
PARAMS = replace(PARAMS, profile=PARAMS.profile.model_copy(update={"steps": 3}))
SCENES = load_cases("test")[:5]  # two batches of the profile


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.load(PARAMS.experiment.guide)


@pytest.fixture
def threads(monkeypatch):
    """Sets how many cores there seem to be; one thread computes, as in every worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda n: monkeypatch.setattr(torch, "get_num_threads", lambda: n)
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "watch"), [("none", watching), ("full", None)])
def test_pictures_are_equal_however_many_processes_draw(mini, segmenter, threads, name, watch):
    case = PARAMS.case(name)
    case = case if case.method is None else case.stating(recurrence={"times": 2})
    methods, watch = (m and partial(m, PARAMS, case, segmenter=segmenter) for m in (guidance_of, watch))
    threads(1)
    alone = draw_benchmark(PARAMS, mini, SCENES, methods, 2, watch)
    threads(2)
    together = draw_benchmark(PARAMS, mini, SCENES, methods, 2, watch)
    assert torch.equal(alone.images, together.images)
    assert torch.equal(alone.images, draw_benchmark(PARAMS, mini, SCENES, methods).images)
    assert [row["id"] for row in together.rows] == [scene.id for scene in SCENES]
    assert all(row["seconds"] > 0 and row["nfe"] >= 2 * PARAMS.profile.steps for row in together.rows)
    for record, image in zip(together.trace.records, together.images[:2], strict=True):
        assert (record.final == (image * 255).round().byte().permute(1, 2, 0).numpy()).all()
        assert record.maps["dga.masks"].any(), "the guide watches the baseline, too"
        assert ("grad_rms" in record.curves) == (name == "full")


def test_without_a_showcase_there_is_no_trace(mini, segmenter):
    methods = partial(guidance_of, PARAMS, PARAMS.case("none"), segmenter=segmenter)
    assert draw_benchmark(PARAMS, mini, SCENES[:1], methods).trace is None
