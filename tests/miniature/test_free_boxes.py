"""Free boxes: what can lie in them, what is stored, and that hardly any is a silhouette's own box."""

from itertools import combinations

import numpy as np
import pytest

from helpers.benchmarks.miniature_free import load_free
from helpers.conditions import decode_mask
from helpers.metrics.layout import box_iou
from helpers.miniature.free_boxes import SHARED, SPLITS, area, extent, fit, make_case, overlap, sides
from helpers.miniature.scene import Scene, Thing, mask_box
from helpers.miniature.vocabulary import KINDS, SIDE, SIZES
from helpers.miniature.world import render

CASES = [case for split in SPLITS for case in load_free(split)]


def pixels(region):
    return tuple(round(v * SIDE) for v in region.box)


def reached(region):
    return box_iou(pixels(region), mask_box(decode_mask(region.mask)))


@pytest.mark.parametrize("kind", ["house", "fish"])
@pytest.mark.parametrize("box", [(14, 20, 50, 38), (0, 0, 16, 16), (40, 2, 64, 62), (3, 5, 53, 49)])
def test_no_object_of_the_world_fills_a_box_better(kind, box):
    placed, iou = fit(Thing(kind, "red", "plain", "small", 20, 32, 32), box)
    best = 0
    for _, side in sides():
        x0, y0, x1, y1 = extent(kind, side)
        for x in range(SIDE - (x1 - x0) + 1):
            for y in range(SIDE - (y1 - y0) + 1):
                best = max(best, box_iou((x, y, x + x1 - x0, y + y1 - y0), box))
    assert iou == pytest.approx(best)
    (drawn,) = render(Scene("sky", (placed,))).boxes
    assert box_iou(drawn, box) == pytest.approx(best), "the renderer draws it there"
    assert (placed.size, placed.side) in sides()


def test_the_world_draws_no_other_sizes():
    assert {side for _, side in sides()} == {size + more for size in SIZES.values() for more in (-1, 0, 1)}
    assert all(max(extent(kind, 25)[2:]) <= 25 for kind in KINDS)


def test_what_is_stored_follows_from_the_seeds():
    for split, counts in SPLITS.items():
        stored = load_free(split)
        assert len(stored) == len(counts)
        for k in (0, 3, 14, len(counts) - 1):
            assert make_case(split, k, counts[k]) == stored[k] and len(stored[k].things) == counts[k]


def test_a_mask_is_the_silhouette_that_fills_its_box_best():
    """Where nothing hides a part of it."""
    for case in CASES[::7]:
        whole = len(case.things) == 1
        for region, thing in zip(case.layout.regions, case.things, strict=True):
            _, iou = fit(Thing(thing.kind, thing.color, thing.pattern, thing.size, 20, 0, 0), pixels(region))
            assert reached(region) == pytest.approx(iou, abs=1e-9 if whole else 0.1)


def test_boxes_lie_inside_and_hardly_overlap():
    for case in CASES:
        boxes = [pixels(region) for region in case.layout.regions]
        assert all(0 <= x0 < x1 <= SIDE and 0 <= y0 < y1 <= SIDE for x0, y0, x1, y1 in boxes)
        for one, other in combinations(boxes, 2):
            assert overlap(one, other) <= SHARED * min(area(one), area(other))
        assert [region.box for region in case.layout.regions] == [tuple(v / SIDE for v in box) for box in boxes]


def test_few_boxes_are_what_an_object_fills():
    ceilings = np.array([reached(region) for case in CASES for region in case.layout.regions])
    assert (ceilings > 0.9).mean() < 0.2 and (ceilings < 0.6).mean() > 0.15
    assert ceilings.min() > 0.3, "an object can lie there"


def test_prompts_name_the_objects_and_no_size():
    for case in CASES:
        assert not set(SIZES) & set(case.prompt.split())
        for region, thing in zip(case.layout.regions, case.things, strict=True):
            assert region.phrase.endswith(f"{thing.color} {thing.kind}")
            assert region.phrase.startswith("striped") == (thing.pattern == "striped")
    assert any(case.relations for case in CASES) and not all(case.seen for case in CASES)


def test_a_stated_relation_holds_of_the_boxes():
    for case in CASES:
        for i, word, j in case.relations:
            (ax, ay), (bx, by) = (
                ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                for box in (pixels(case.layout.regions[k]) for k in (i, j))
            )
            off = {"left of": bx - ax, "right of": ax - bx, "above": by - ay, "below": ay - by}
            assert off[word] > -8, (case.id, word)
