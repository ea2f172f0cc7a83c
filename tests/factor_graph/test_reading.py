"""What a segmentation is read as."""

import numpy as np
import pytest

from helpers.factor_graph.reading import objects, recall
from helpers.miniature.maps import CODES, segmentation
from helpers.miniature.world import random_scene, render

RED_CAR, BLUE_BALL = ("car", "red"), ("ball", "blue")


def painted(*patches, size=64):
    """Rectangles (code, height, width, top, left) on black."""
    picture = np.zeros((size, size, 3), np.uint8)
    for name, height, width, top, left in patches:
        picture[top : top + height, left : left + width] = CODES[name]
    return picture


def test_objects_of_scenes_are_read_back():
    for i in range(20):
        scene = random_scene(np.random.default_rng([8, i]), n=i % 4 + 1)
        drawn = render(scene)
        found = objects(segmentation(scene))
        assert {(one.kind, one.color) for one in found} == {(t.kind, t.color) for t in scene.things}
        for one in found:
            k = next(k for k, t in enumerate(scene.things) if (t.kind, t.color) == (one.kind, one.color))
            assert (one.mask <= drawn.visible[k]).all()


def test_an_object_covers_forty_pixels_or_ten_at_half_the_size():
    assert [(one.kind, one.color) for one in objects(painted((RED_CAR, 5, 8, 3, 4)))] == [RED_CAR]
    assert not objects(painted((RED_CAR, 3, 13, 3, 4)))
    assert objects(painted((RED_CAR, 2, 5, 3, 4), size=32)) and not objects(painted((RED_CAR, 3, 3, 3, 4), size=32))


def test_instances_are_components():
    found = objects(painted((RED_CAR, 10, 10, 2, 2), (RED_CAR, 10, 10, 40, 40), (BLUE_BALL, 10, 10, 2, 40)))
    assert sorted((one.kind, one.box) for one in found) == [
        ("ball", (40, 2, 50, 12)),
        ("car", (2, 2, 12, 12)),
        ("car", (40, 40, 50, 50)),
    ]


def test_an_empty_map_shows_nothing():
    assert objects(np.zeros((64, 64, 3))) == []


@pytest.mark.parametrize(
    ("found", "wanted", "share"),
    [
        ([RED_CAR], [RED_CAR, BLUE_BALL], 0.5),
        ([RED_CAR, RED_CAR], [RED_CAR], 1.0),
        ([RED_CAR], [RED_CAR, RED_CAR], 0.5),
        ([], [RED_CAR], 0.0),
        (["car"], ["car", "ball", "car", "tree"], 0.25),
    ],
)
def test_recall_counts_every_found_one_once(found, wanted, share):
    assert recall(found, wanted) == share


def test_recall_of_nothing_is_refused():
    with pytest.raises(ValueError, match="recall of no objects: name what was asked for"):
        recall([RED_CAR], [])
