"""Conditions of scenes: codes, what a segmentation covers, depth order, normals, outlines."""

from itertools import combinations

import numpy as np
import pytest

from helpers.miniature.maps import CODES, MAPS, bulge, code, depth, named, nearest, normals, segmentation, sketch
from helpers.miniature.scene import Scene, Thing
from helpers.miniature.vocabulary import COLORS, KINDS
from helpers.miniature.world import random_scene, render

OVERLAPPING = Scene(
    "snow",
    (Thing("box", "red", "plain", "large", 30, 24, 30), Thing("ball", "blue", "striped", "large", 30, 40, 34)),
)
SCENES = [OVERLAPPING, *(random_scene(np.random.default_rng([7, i])) for i in range(5))]


def test_codes_are_far_apart_and_say_kind_and_colour_for_themselves():
    points = np.array([(0, 0, 0), *CODES.values()], float)
    gaps = [np.linalg.norm(a - b) for a, b in combinations(points, 2)]
    assert len(CODES) == len(KINDS) * len(COLORS) and min(gaps) > 60
    for kind in KINDS:
        assert len({code(kind, color)[0] for color in COLORS}) == 1
    for color in COLORS:
        assert len({code(kind, color)[2] for kind in KINDS}) == 1


def test_codes_are_read_also_when_they_are_a_little_off():
    for k, (name, rgb) in enumerate(CODES.items(), 1):
        found = nearest(np.array([rgb]) + np.array([[12, -12, 12]]))
        assert found.tolist() == [k] and named(k) == name
    assert nearest(np.array([[[10, 20, 10]]])).tolist() == [[0]] and named(0) is None


@pytest.mark.parametrize("scene", SCENES)
def test_a_segmentation_covers_what_is_seen(scene):
    drawn, picture = render(scene), segmentation(scene)
    for thing, visible in zip(scene.things, drawn.visible):
        assert (picture[visible] == CODES[thing.kind, thing.color]).all()
    assert (picture[~drawn.visible.any(0)] == 0).all()


@pytest.mark.parametrize("scene", SCENES)
def test_nearer_objects_are_brighter(scene):
    drawn, picture = render(scene), depth(scene)
    values = [picture[visible].astype(int) for visible in drawn.visible]
    assert all(back.max() < front.min() for back, front in zip(values, values[1:]))
    assert (picture[~drawn.visible.any(0)] == 0).all() and all((v > 0).all() for v in values)


@pytest.mark.parametrize("scene", SCENES)
def test_normals_have_length_one_and_point_away_from_the_middle(scene):
    found = normals(scene).astype(float) / 255 * 2 - 1
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=0.02)
    ball = Scene("sky", (Thing("ball", "red", "plain", "large", 30, 32, 32),))
    found = normals(ball).astype(float) / 255 * 2 - 1
    assert found[32, 20, 0] < -0.3 < 0.3 < found[32, 43, 0] and found[20, 32, 1] < -0.3 < 0.3 < found[43, 32, 1]
    np.testing.assert_allclose(found[0, 0], (0, 0, 1), atol=0.01)


def test_a_bulge_is_highest_in_the_middle():
    disc = render(Scene("sky", (Thing("ball", "red", "plain", "large", 30, 32, 32),))).amodal[0]
    found = bulge(disc)
    assert found.max() == 1 and found[32, 32] > 0.95 and (found[~disc] == 0).all() and 0 <= found.min()
    assert (bulge(np.zeros((8, 8), bool)) == 0).all()


@pytest.mark.parametrize("scene", SCENES)
def test_a_sketch_is_the_outline_of_what_is_seen(scene):
    drawn, lines = render(scene), sketch(scene)[..., 0] > 0
    assert set(np.unique(sketch(scene))) == {0, 255} and not (lines & ~drawn.visible.any(0)).any()
    for visible in drawn.visible:
        ys, xs = np.nonzero(visible & ~lines)  # what is no line lies inside: all its neighbours are the object's
        assert len(ys) and all(visible[y - 1, x] and visible[y + 1, x] and visible[y, x - 1] for y, x in zip(ys, xs))


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_pictures(name):
    picture = MAPS[name](OVERLAPPING)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert (picture == MAPS[name](OVERLAPPING, render(OVERLAPPING))).all()
