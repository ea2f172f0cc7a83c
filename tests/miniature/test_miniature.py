"""The miniature world: what is drawn is what is stated."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from helpers.miniature.captions import describe, long_caption, short_caption, shuffled
from helpers.miniature.scene import Scene, Thing, is_held_out, mask_box, shifted
from helpers.miniature.vocabulary import BACKGROUNDS, COLORS, HELD_OUT, KINDS, PLACES, SIDE
from helpers.miniature.world import SILHOUETTES, move, random_scene, render


def scenes(count, seed=0, **kinds):
    rng = np.random.default_rng(seed)
    return [random_scene(rng, **kinds) for _ in range(count)]


def ball(x, y, color="red", side=21):
    return Thing("ball", color, "plain", "small", side, x, y)


def test_same_seed_same_scene():
    first, second = scenes(20), scenes(20)
    assert first == second
    assert all((render(a).image == render(b).image).all() for a, b in zip(first, second))
    assert first != scenes(20, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_is_at_least_16_px_and_has_its_colour(kind):
    for color in COLORS:
        drawn = render(Scene("snow", (Thing(kind, color, "plain", "small", 19, 32, 32),)))
        x0, y0, x1, y1 = drawn.boxes[0]
        assert max(x1 - x0, y1 - y0) >= 16
        inside = drawn.image[drawn.visible[0]].astype(int)
        close = (np.abs(inside - COLORS[color]).sum(1) < 12).mean()
        assert close > 0.25, f"only {close:.2f} of a {color} {kind} is {color}"


def test_masks_are_disjoint_and_explain_the_image():
    for scene in scenes(50, n=4):
        drawn = render(scene)
        assert drawn.visible.sum(0).max() <= 1
        assert (drawn.visible <= drawn.amodal).all()
        assert all(mask_box(m) == tuple(b) for m, b in zip(drawn.amodal, drawn.boxes))
        empty = render(Scene(scene.background, ())).image.astype(int)
        changed = np.abs(drawn.image.astype(int) - empty).sum(-1) > 0
        assert changed[drawn.visible.any(0)].mean() > 0.98
        assert not changed[~binary_dilation(drawn.amodal.any(0), iterations=3)].any()  # thin tips fade out


def test_nearer_objects_hide_farther_ones():
    behind, front = ball(30, 32), ball(36, 32, "blue")
    drawn = render(Scene("sky", (behind, front)))
    assert (drawn.visible[1] == drawn.amodal[1]).all()
    assert drawn.visible[0].sum() < drawn.amodal[0].sum()


def test_mask_box():
    mask = np.zeros((8, 8), bool)
    assert mask_box(mask) == (0, 0, 0, 0)
    mask[2:4, 1:7] = True
    assert mask_box(mask) == (1, 2, 7, 4)


def test_move_gives_the_exact_flow():
    scene = Scene("grass", (ball(20, 30), ball(48, 30, "blue")))
    edited, flow = move(scene, 0, 5, -3)
    before, after = render(scene), render(edited)
    ys, xs = np.nonzero(before.visible[0])
    assert (flow[:, ys, xs].T == [5, -3]).all()
    assert (flow[:, ~before.visible[0]] == 0).all()
    core = [(y, x) for y, x in zip(ys, xs) if before.visible[0][y - 2 : y + 3, x - 2 : x + 3].all()]
    assert all((after.image[y - 3, x + 5] == before.image[y, x]).all() for y, x in core)


def test_an_object_may_leave_the_image():
    drawn = render(Scene("sand", (ball(0, 32, side=20),)))
    assert 0 < drawn.amodal.sum() < render(Scene("sand", (ball(32, 32, side=20),))).amodal.sum()


def test_held_out_compositions():
    assert not any(is_held_out(s) for s in scenes(200, held_out=False))
    assert all(is_held_out(s) for s in scenes(50, held_out=True))
    assert len(HELD_OUT) == len(KINDS) == len({kind for kind, _ in HELD_OUT})


def test_objects_stay_visible_and_inside():
    for scene in scenes(200):
        drawn = render(scene)
        assert (drawn.visible.sum((1, 2)) >= 0.6 * drawn.amodal.sum((1, 2))).all()
        for t in scene.things:
            assert 0 <= t.x - t.side // 2 and t.x - t.side // 2 + t.side <= SIDE


@pytest.mark.parametrize("write", [short_caption, long_caption])
def test_captions_name_every_object_and_tell_the_truth(write):
    rng = np.random.default_rng(3)
    for scene in scenes(150):
        caption = write(scene, rng)
        assert {p.thing for p in caption.phrases} == set(range(len(scene.things)))
        for p in caption.phrases:
            thing = scene.things[p.thing]
            assert caption.text[p.start : p.stop] == p.text
            assert thing.color in p.text and thing.kind in p.text
        assert PLACES[scene.background] in caption.text
        for a, word, b in caption.relations:
            one, two = scene.things[a], scene.things[b]
            truth = {
                "left of": one.x < two.x,
                "right of": one.x > two.x or one.x == two.x,
                "above": one.y < two.y,
                "below": one.y > two.y or one.y == two.y,
                "in front of": a > b,
                "behind": a < b,
            }
            assert truth[word], (caption.text, word)


def test_every_attribute_stands_in_the_long_caption():
    rng = np.random.default_rng(4)
    for scene in scenes(50):
        caption = long_caption(scene, rng).text
        for i in range(len(scene.things)):
            assert describe(scene, i, size=True) in caption


def test_every_kind_has_a_silhouette_and_every_background_a_place():
    assert tuple(SILHOUETTES) == KINDS and set(PLACES) == set(BACKGROUNDS)


def test_shifts_add_up_and_leave_the_others():
    scene = Scene("grass", (ball(20, 30), ball(48, 30, "blue")))
    assert shifted(scene, [(0, 5, -3), (1, 1, 0), (0, -1, 1)]).things == (ball(24, 28), ball(49, 30, "blue"))
    assert shifted(scene, [(0, 5, -3)]) == move(scene, 0, 5, -3)[0] and shifted(scene, []) == scene


def test_shuffled_sentences_are_the_same_sentences_in_another_order():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        caption = long_caption(random_scene(rng, 1 + seed % 4), rng)
        other = shuffled(caption, rng)
        assert other.text != caption.text
        assert sorted(other.text.split(". ")) != [] and sorted(other.text.replace(".", "").split()) == sorted(
            caption.text.replace(".", "").split()
        )
        assert other.relations == caption.relations
        for phrase in other.phrases:
            assert other.text[phrase.start : phrase.stop] == phrase.text
