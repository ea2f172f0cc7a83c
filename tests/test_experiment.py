"""The benchmark of a case: the same pictures however many processes draw, and the Trace is of these pictures."""

from functools import partial

import pytest
import torch

from helpers.backbones import load_backbone
from helpers.experiments.dga import guidance_of, watching
from helpers.experiments.draw import draw_benchmark
from helpers.miniature.benchmark import load_cases
from helpers.params import load
from helpers.paths import weights
from helpers.perception.segmenter import Segmenter

PARAMS = load("smoke")
SCENES = load_cases("test")[:5]  # two batches of the profile


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(PARAMS.sampling.backbone, "cpu")


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.load(weights(PARAMS.dga.guide), torch.device("cpu"))


@pytest.fixture
def threads(monkeypatch):
    """Sets how many cores there seem to be; one thread computes, as in every worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda n: monkeypatch.setattr(torch, "get_num_threads", lambda: n)
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "watch"), [("none", watching), ("full", None)])
def test_pictures_are_equal_however_many_processes_draw(backbone, segmenter, threads, name, watch):
    case = PARAMS.dga.case(name)
    methods, watch = (m and partial(m, PARAMS, case, segmenter=segmenter) for m in (guidance_of, watch))
    threads(1)
    alone = draw_benchmark(PARAMS, backbone, SCENES, methods, 2, watch)
    threads(2)
    together = draw_benchmark(PARAMS, backbone, SCENES, methods, 2, watch)
    assert torch.equal(alone.images, together.images)
    assert torch.equal(alone.images, draw_benchmark(PARAMS, backbone, SCENES, methods).images)
    assert [row["id"] for row in together.rows] == [scene.id for scene in SCENES]
    assert all(row["seconds"] > 0 and row["nfe"] >= 2 * PARAMS.profile.steps for row in together.rows)
    for record, image in zip(together.trace.records, together.images[:2], strict=True):
        assert (record.final == (image * 255).round().byte().permute(1, 2, 0).numpy()).all()
        assert record.maps["dga.masks"].any(), "the guide watches the baseline, too"
        assert ("grad_rms" in record.curves) == (name == "full")


def test_without_a_showcase_there_is_no_trace(backbone, segmenter):
    methods = partial(guidance_of, PARAMS, PARAMS.dga.case("none"), segmenter=segmenter)
    assert draw_benchmark(PARAMS, backbone, SCENES[:1], methods).trace is None
