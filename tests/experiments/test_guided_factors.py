"""Boxes asked of a map: what is drawn, which candidate is kept, what is stretched, and what it is said to have cost."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.experiments import guided_factors
from helpers.experiments.guided_factors import Experiment, GuidedCase, asked, draw_case, parts
from helpers.factor_graph.arranging import pixels as in_pixels
from helpers.factor_graph.arranging import placed
from helpers.factor_graph.codes import CodeReader
from helpers.factor_graph.factor import Conditions
from helpers.guidance.cfg import CFG
from helpers.miniature.maps import CODES
from helpers.params import load
from helpers.pipeline.samples import Samples
from helpers.sampling.best_of import try_seed

PARAMS = load(Experiment, "smoke")
SCENES = asked(PARAMS, PARAMS.case("map"))[:2]
GOOD = {try_seed(SCENES[0].seed, 1), try_seed(SCENES[1].seed, 2)}  # seeds whose maps show the objects in their boxes


@pytest.fixture
def drawn(monkeypatch):
    """What `draw_benchmark` was asked for; instead of drawing it paints every object's code in its box, or in a corner,
    a pixel of its neighbour's code beside it, which no map shall keep."""
    made = []

    def paint(params, backbone, scenes, methods, showcase=0, watching=None):
        made.append(SimpleNamespace(steps=params.profile.steps, backbone=backbone, scenes=list(scenes)))
        made[-1].methods = methods(scenes)
        pictures = np.zeros((len(scenes), 3, 64, 64), np.float32)
        for picture, scene in zip(pictures, scenes):
            for k, (thing, region) in enumerate(zip(scene.things, scene.layout.regions)):
                corner = (12 * k, 50, 12 * k + 10, 60)
                x0, y0, x1, y1 = in_pixels(region, (64, 64)) if scene.seed in GOOD else corner
                picture[:, y0:y1, x0:x1] = (np.array(CODES[thing.kind, thing.color]) / 255)[:, None, None]
            picture[:, 0, 0] = 1
        rows = [{"id": s.id, "seed": s.seed, "seconds": 1.0, "nfe": 2.0 * params.profile.steps} for s in scenes]
        return Samples(torch.from_numpy(pictures), rows, [f"by {backbone}"], None)

    monkeypatch.setattr(guided_factors, "draw_benchmark", paint)
    return made


MODELS = guided_factors.Models("mini-sd", "segmenter", "planner", "painter")


def uint8(picture: torch.Tensor) -> np.ndarray:
    return (255 * picture).round().byte().permute(1, 2, 0).numpy()


def test_the_best_map_is_kept_and_painted(drawn):
    case = GuidedCase(method="dga", candidates=3)
    found = draw_case(PARAMS, case, SCENES, MODELS)
    maps, pictures = drawn
    assert maps.backbone == "planner" and maps.steps == PARAMS.experiment.map_steps and pictures.backbone == "painter"
    assert [s.seed for s in maps.scenes] == [try_seed(s.seed, k) for s in SCENES for k in range(3)]
    assert [s.seed for s in pictures.scenes] == [s.seed for s in SCENES]  # the noise that mini-sd would have
    cfg, dga = maps.methods
    assert cfg.cfg_scale == PARAMS.experiment.map_cfg_scale and isinstance(dga.segmenter, CodeReader)
    given, obeyed = pictures.methods
    assert isinstance(given, Conditions) and isinstance(obeyed, CFG) and obeyed.cfg_scale == PARAMS.sampling.cfg_scale
    for scene, strip, one in zip(SCENES, found.images, given.maps["segmentation"], strict=True):
        plan, _ = (part[0] for part in parts(strip[None]))
        torch.testing.assert_close(plan, one)
        assert placed(uint8(plan), scene.layout) > 0.7
    evaluations = 3 * 2 * PARAMS.experiment.map_steps + 2 * PARAMS.profile.steps
    assert [(row["seconds"], row["nfe"]) for row in found.rows] == [(4.0, evaluations)] * 2
    assert found.warnings == ["by planner", "by painter"]


def test_objects_are_stretched_to_their_boxes(drawn):
    plain, stretched = (draw_case(PARAMS, GuidedCase(arranged=on), SCENES, MODELS) for on in (False, True))
    for scene, before, after in zip(SCENES, plain.images, stretched.images, strict=True):
        (before, _), (after, _) = (parts(strip[None]) for strip in (before, after))
        assert placed(uint8(before[0]), scene.layout) < 0.2 < 0.7 < placed(uint8(after[0]), scene.layout)
    assert [row["nfe"] for row in stretched.rows] == [row["nfe"] for row in plain.rows]


def test_a_picture_is_guided_as_it_is(drawn):
    found = draw_case(PARAMS, GuidedCase(within="picture", method="dga"), SCENES, MODELS)
    (picture,) = drawn
    assert picture.backbone == "mini-sd" and picture.steps == PARAMS.profile.steps
    assert picture.methods[0].cfg_scale == PARAMS.sampling.cfg_scale and picture.methods[1].segmenter == "segmenter"
    plan, image = parts(found.images)
    assert not plan.any() and image.any() and found.images.shape[-1] == 128


def test_prompts_are_those_of_the_case():
    tight, free = (asked(PARAMS, PARAMS.case(name)) for name in ("map", "map_free"))
    assert len(tight) == len(free) == 4 and not {case.id for case in tight} & {case.id for case in free}


def test_maps_alone_have_candidates():
    for wrong in ({"candidates": 2}, {"arranged": True}):
        with pytest.raises(ValueError, match="are of maps: leave them out, or draw within a map"):
            GuidedCase(within="picture", **wrong)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        GuidedCase(candidates=0)
