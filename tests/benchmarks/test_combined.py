"""Prompts, layouts and drags of the same scenes: the benchmark on which modules are combined."""

import numpy as np
import pytest

from helpers.benchmarks.miniature_combined import load_combined
from helpers.benchmarks.miniature_drags import load_drags
from helpers.conditions import decode_mask
from helpers.judges.base import Found
from helpers.metrics.concepts import holds
from helpers.miniature.scene import mask_box, shifted
from helpers.miniature.vocabulary import PLACES
from helpers.miniature.world import render
from helpers.perception.scene_graph import parse

DEV, TEST = load_combined("dev"), load_combined("test")
CASES = DEV + TEST


def edited(case):
    return shifted(case.drag.scene, case.drag.shifts)


def places(case, scene):
    """Which object of a scene each thing of the case is; no kind occurs twice."""
    kinds = [thing.kind for thing in scene.things]
    return [kinds.index(thing.kind) for thing in case.scene.things]


def true_in(scene, i, word, j):
    """A relation by the scene's coordinates and depth."""
    a, b = scene.things[i], scene.things[j]
    if word in ("in front of", "behind"):
        masks = render(scene).amodal
        return (masks[i] & masks[j]).any() and (i > j) == (word == "in front of")
    along, across = (a.x - b.x, a.y - b.y) if word in ("left of", "right of") else (a.y - b.y, a.x - b.x)
    return abs(along) >= abs(across) and (along < 0) == (word in ("left of", "above"))


def stated(case, scene):
    of = places(case, scene)
    return [true_in(scene, of[i], word, of[j]) for i, word, j in case.scene.relations]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_drag_among_several_objects_is_a_case_and_no_other(split):
    several = [drag for drag in load_drags(split) if len(drag.scene.things) > 1]
    cases = load_combined(split)
    assert [case.id for case in cases] == [drag.id for drag in several] and len(cases) < len(load_drags(split))
    assert [case.seed for case in cases] == [drag.seed for drag in several]
    assert all(len(case.scene.things) == len(drag.scene.things) for case, drag in zip(cases, several))


def test_cases_repeat_exactly():
    assert load_combined.__wrapped__("dev") == DEV
    assert {case.prompt for case in DEV}.isdisjoint(case.prompt for case in TEST)
    with pytest.raises(ValueError, match="unknown split 'train'"):
        load_combined("train")


def test_the_prompt_names_what_the_edited_scene_shows():
    for case in CASES:
        scene, graph = edited(case), parse(case.prompt)
        things = [scene.things[k] for k in places(case, scene)]
        looks = [{t.size, t.color} | ({"striped"} if t.pattern == "striped" else set()) for t in things]
        assert [(o.noun, set(o.attributes)) for o in graph.objects] == [(t.kind, w) for t, w in zip(things, looks)]
        assert graph.relations == case.scene.relations and len(graph.relations) == len(things) - 1
        assert case.prompt.endswith(f"the scene is {PLACES[scene.background]}.")
        assert case.scene.background == scene.background


def test_stated_relations_are_true_after_the_edit_and_not_all_before_it():
    assert all(all(stated(case, edited(case))) for case in CASES)
    assert not all(all(stated(case, case.drag.scene)) for case in CASES), "the caption is not that of the source"


def test_the_metric_finds_stated_relations_in_the_true_masks():
    """Not all: it compares centres of what is visible, and in front of and behind by what lies in both boxes."""
    right = []
    for case in CASES:
        scene = edited(case)
        things = zip(scene.things, render(scene).visible, strict=True)
        found = [Found(t.kind, t.color, t.pattern, 1.0, mask_box(mask), mask) for t, mask in things]
        of = places(case, scene)
        right += [holds(word, found[of[i]], found[of[j]]) for i, word, j in case.scene.relations]
    assert np.mean(right) >= 0.9


def test_the_layout_is_that_of_the_edited_picture():
    moved = 0
    for case in CASES:
        scene = edited(case)
        before, after = render(case.drag.scene).visible, render(scene).visible
        assert [region.phrase.split()[-1] for region in case.scene.layout.regions] == [
            t.kind for t in case.scene.things
        ]
        for region, k in zip(case.scene.layout.regions, places(case, scene), strict=True):
            assert tuple(64 * v for v in region.box) == mask_box(after[k])
            assert (decode_mask(region.mask) == after[k]).all()
            moved += tuple(64 * v for v in region.box) != mask_box(before[k])
    assert moved >= len(CASES), "in every case some object lies elsewhere than in the source"


def test_the_drag_is_the_benchmarks_own_under_the_cases_prompt():
    drags = {drag.id: drag for split in ("dev", "test") for drag in load_drags(split)}
    for case in CASES:
        own = drags[case.id]
        assert case.drag.drag.prompt == case.prompt == case.drag.prompt == case.scene.layout.prompt
        assert case.drag.drag.moves == own.drag.moves and case.drag.drag.source == own.drag.source
        assert case.drag.model_copy(update={"drag": own.drag}) == own
