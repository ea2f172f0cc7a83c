"""Edits of segmentations: what is there afterwards, and what is refused."""

import numpy as np
import pytest

from helpers.factor_graph.editing import added, deleted, find, flipped, moved, recoloured, replaced, resized
from helpers.factor_graph.reading import objects
from helpers.miniature.maps import segmentation
from helpers.miniature.scene import Scene, Thing

SCENE = Scene(
    "sky",
    (Thing("fish", "red", "plain", "large", 30, 20, 20), Thing("ball", "blue", "striped", "small", 20, 46, 46)),
)


@pytest.fixture
def before():
    return segmentation(SCENE)


def shown(picture):
    return {(one.kind, one.color): one for one in objects(picture)}


def test_objects_are_found_by_name(before):
    assert find(before, "fish", "red").box == shown(before)["fish", "red"].box
    two = added(before, "fish", "red", (0, 44, 16, 60))
    assert find(two, "fish", "red").box == find(before, "fish", "red").box  # the larger one


def test_what_is_moved_stands_elsewhere_and_nothing_else_changes(before):
    fish = find(before, "fish", "red")
    after = shown(moved(before, fish, 20, 0))
    assert np.array_equal(after["fish", "red"].mask, np.roll(fish.mask, 20, 1))
    assert np.array_equal(after["ball", "blue"].mask, shown(before)["ball", "blue"].mask)
    assert moved(before, fish, 0, 0).tolist() == before.tolist()


def test_a_moved_object_hides_what_it_covers(before):
    after = shown(moved(before, find(before, "ball", "blue"), -26, -26))
    assert after["ball", "blue"].mask.sum() == shown(before)["ball", "blue"].mask.sum()
    assert after["fish", "red"].mask.sum() < shown(before)["fish", "red"].mask.sum()


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.4])
def test_what_is_resized_keeps_its_centre_and_its_form(before, scale):
    fish = find(before, "fish", "red")
    after = find(resized(before, fish, scale), "fish", "red")
    for low, high in ((0, 2), (1, 3)):
        assert after.box[high] - after.box[low] == pytest.approx(scale * (fish.box[high] - fish.box[low]), abs=1.01)
        assert after.box[high] + after.box[low] == pytest.approx(fish.box[high] + fish.box[low], abs=2.01)
    assert after.mask.sum() == pytest.approx(scale**2 * fish.mask.sum(), rel=0.1)


def test_what_is_flipped_looks_the_other_way(before):
    fish = find(before, "fish", "red")
    after = find(flipped(before, fish), "fish", "red")
    assert after.box == fish.box and not np.array_equal(after.mask, fish.mask)
    assert np.array_equal(flipped(flipped(before, fish), after), before)
    x0, y0, x1, y1 = fish.box
    assert np.array_equal(find(flipped(before, fish, "y"), "fish", "red").mask[y0:y1], fish.mask[y0:y1][::-1])


def test_what_is_deleted_recoloured_replaced_and_added(before):
    fish = find(before, "fish", "red")
    assert set(shown(deleted(before, fish))) == {("ball", "blue")}
    again = shown(recoloured(before, fish, "pink"))
    assert set(again) == {("fish", "pink"), ("ball", "blue")}
    assert np.array_equal(again["fish", "pink"].mask, fish.mask)
    house = shown(replaced(before, fish, "house", "green"))
    assert set(house) == {("house", "green"), ("ball", "blue")}
    assert house["house", "green"].box == pytest.approx(fish.box, abs=1)
    star = shown(added(before, "star", "yellow", (2, 40, 22, 60)))
    assert set(star) == {("fish", "red"), ("ball", "blue"), ("star", "yellow")}
    assert star["star", "yellow"].box == pytest.approx((2, 40, 22, 60), abs=1)


def test_the_segmentation_itself_stays(before):
    kept = before.copy()
    fish = find(before, "fish", "red")
    deleted(before, fish), moved(before, fish, 3, 3), recoloured(before, fish, "blue"), resized(before, fish, 2.0)
    assert np.array_equal(before, kept)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s, one: find(s, "fish", "blue"), "shows no blue fish: choose one of what it shows, .*red fish"),
        (lambda s, one: find(np.zeros_like(s), "fish", "red"), "shows no red fish: .*, nothing"),
        (lambda s, one: find(s, "dog", "red"), "no class has the kind 'dog': use one of ball, box"),
        (lambda s, one: recoloured(s, one, "beige"), "no class has the colour 'beige': use one of red, orange"),
        (lambda s, one: moved(s, one, 60, 0), r"the red fish, moved by \(60, 0\), has 0 pixels in the picture"),
        (lambda s, one: resized(s, one, 0.0), "scale=0.0 must lie between 0.1 and 10"),
        (lambda s, one: resized(s, one, float("nan")), "scale=nan must lie"),
        (lambda s, one: resized(s, one, 0.2), "resized by 0.2, has .* too few to be seen: change it less"),
        (lambda s, one: flipped(s, one, "z"), "along='z' is no direction: use 'x' or 'y'"),
        (lambda s, one: added(s, "star", "red", (50, 50, 70, 60)), r"the box \(50, 50, 70, 60\) does not lie in a"),
        (lambda s, one: added(s, "star", "red", (9, 9, 9, 20)), "does not lie in a picture of 64 x 64"),
        (lambda s, one: added(s, "star", "red", (9, 9, 13, 13)), "covers .* pixels, too few to be seen: enlarge"),
        (lambda s, one: replaced(s, one, "cat", "red"), "no class has the kind 'cat'"),
    ],
)
def test_wrong_edits_are_refused(before, edit, words):
    with pytest.raises(ValueError, match=words):
        edit(before, find(before, "fish", "red"))
