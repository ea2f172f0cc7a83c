"""Choosing among candidates: which one is kept, what it is said to have cost, and the benchmark of many objects."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.benchmarks import miniature_many
from helpers.benchmarks.miniature import load_captioned
from helpers.experiments import sbpc
from helpers.experiments.sbpc import CANDIDATES, Experiment, SbpcCase, Search, draw_case
from helpers.factor_graph.factor import Conditions
from helpers.miniature.maps import CODES
from helpers.params import load
from helpers.pipeline.samples import Samples
from helpers.sampling.best_of import try_seed

PARAMS = load(Experiment, "smoke")
SCENES = miniature_many.items("test")[:2]
SHOWN = {try_seed(SCENES[0].seed, 1): 3, try_seed(SCENES[1].seed, 0): 2}  # seed -> how many objects its map shows


def test_prompts_of_many_objects_are_pooled():
    found = miniature_many.items("test")
    short, long = (load_captioned("many", caption) for caption in ("short", "long"))
    assert len(found) == len(short) + len(long) and {len(case.things) for case in found} == {5, 6}
    assert [case.prompt for case in found[:2]] == [short[0].prompt, long[0].prompt]
    assert len({case.id for case in found}) == len({case.seed for case in found}) == len(found)
    with pytest.raises(ValueError, match="have no split 'dev': use test"):
        miniature_many.items("dev")


@pytest.fixture
def drawn(monkeypatch):
    """What `draw_benchmark` was asked for; instead of drawing it paints the codes of a scene's first objects."""
    asked = []

    def paint(params, backbone, scenes, methods, showcase=0, watching=None):
        asked.append(
            SimpleNamespace(steps=params.profile.steps, backbone=backbone, scenes=list(scenes), showcase=showcase)
        )
        asked[-1].methods = methods(scenes)
        pictures = np.zeros((len(scenes), 3, 64, 64), np.float32)
        for picture, scene in zip(pictures, scenes):
            for k, thing in enumerate(scene.things[: SHOWN.get(scene.seed, 1)]):
                code = np.array(CODES[thing.kind, thing.color], np.float32) / 255
                picture[:, 10 * k : 10 * k + 8, 5:15] = code[:, None, None]
        rows = [{"id": s.id, "seed": s.seed, "seconds": 1.0, "nfe": 2.0 * params.profile.steps} for s in scenes]
        return Samples(torch.from_numpy(pictures), rows, [], "trace" if showcase else None)

    monkeypatch.setattr(sbpc, "draw_benchmark", paint)
    return asked


def models(covered=None):
    segmenter = SimpleNamespace(masks=lambda pictures, phrases: covered(pictures, phrases))
    return sbpc.Models("mini-sd", segmenter, {"segmentation": "maps", "image": "image"})


def test_the_best_map_conditions_one_picture(drawn):
    case = SbpcCase(images="headline", search=Search(of="maps", candidates=3, steps=5))
    found = draw_case(PARAMS, case, SCENES, models(), 1)
    maps, pictures = drawn
    assert maps.backbone == "maps" and maps.steps == 5 and maps.showcase == 0 and len(maps.scenes) == 6
    assert [s.seed for s in maps.scenes] == [try_seed(s.seed, k) for s in SCENES for k in range(3)]
    assert pictures.backbone == "image" and pictures.steps == PARAMS.profile.steps and pictures.showcase == 1
    assert [s.seed for s in pictures.scenes] == [s.seed for s in SCENES]  # the noise that mini-sd would have
    given = next(method for method in pictures.methods if isinstance(method, Conditions)).maps["segmentation"]
    for scene, one, count in zip(SCENES, given, (3, 2)):
        assert (one.sum(0) > 0).sum() == 80 * count, scene.id
    sizes = [len(scene.things) for scene in SCENES]
    for row, size, counts in zip(found.rows, sizes, ((1, 1, 3), (1, 1, 2))):
        assert [row[name] for name in CANDIDATES] == pytest.approx([count / size for count in counts])
        assert row["nfe"] == 3 * 10 + 2 * PARAMS.profile.steps and 4 <= row["seconds"] < 4.5
    assert found.trace == "trace"


def covering(pictures, phrases):
    """A guide that finds as many phrases as the picture has patches."""
    rows = (pictures[0].sum(0) > 0).any(1).sum() // 8
    return torch.stack([torch.full((64, 64), float(k < rows)) for k in range(len(phrases))])[None]


def test_the_best_picture_is_the_result(drawn):
    case = SbpcCase(images="headline", search=Search(of="pictures", candidates=3))
    found = draw_case(PARAMS, case, SCENES, models(covering), 1)
    candidates, shown = drawn
    assert candidates.backbone == "mini-sd" and candidates.steps == PARAMS.profile.steps and len(candidates.scenes) == 6
    assert len(shown.scenes) == shown.showcase == 1  # for the Trace alone
    assert [row["seed"] for row in found.rows] == list(SHOWN) and [row["id"] for row in found.rows] == [
        s.id for s in SCENES
    ]
    assert [(image.sum(0) > 0).sum().item() for image in found.images] == [240, 160]
    assert all(row["nfe"] == 3 * 2 * PARAMS.profile.steps for row in found.rows)


def test_the_best_noise_of_short_pictures_is_drawn_again(drawn):
    case = SbpcCase(images="headline", search=Search(of="pictures", candidates=3, steps=2))
    found = draw_case(PARAMS, case, SCENES, models(covering), 1)
    short, full = drawn
    assert short.steps == 2 and full.steps == PARAMS.profile.steps
    assert [scene.seed for scene in full.scenes] == list(SHOWN)
    assert all(row["nfe"] == 3 * 4 + 2 * PARAMS.profile.steps for row in found.rows)


def test_without_a_search_one_picture_is_drawn(drawn):
    found = draw_case(PARAMS, PARAMS.case("ilgd"), SCENES, models(), 1)
    assert len(drawn) == 1 and [type(one).__name__ for one in drawn[0].methods] == ["CFG", "ILGD"]
    assert all(np.isnan(row[name]) for row in found.rows for name in CANDIDATES)


def test_a_search_and_a_method_are_refused():
    with pytest.raises(ValueError, match="candidates are drawn without a method: leave out 'dga', or the search"):
        SbpcCase(images="headline", method="dga", search=Search(of="maps", candidates=2))


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"of": "sketches", "candidates": 3}, "Input should be 'maps' or 'pictures'"),
        ({"of": "maps", "candidates": 0}, "greater than or equal to 1"),
        ({"of": "maps", "candidates": 3, "steps": 2.5}, "valid integer"),
        ({"of": "maps"}, "Field required"),
    ],
)
def test_a_wrong_search_is_refused(search, words):
    with pytest.raises(ValueError, match=words):
        SbpcCase(images="headline", search=search)
