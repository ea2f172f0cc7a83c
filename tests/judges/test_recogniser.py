"""The recogniser on dense predictions made by hand, on scenes that it never saw, and on pictures of any size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from handmade import block

from helpers.judges.loading import load_judge
from helpers.judges.recogniser import LABELS, instances
from helpers.miniature.vocabulary import COLORS
from helpers.miniature.world import random_scene, render
from helpers.training.judge import evaluate, reject
from helpers.training.malformed import TESTING


def unseen(n):
    """Scenes and their images."""
    scenes = [random_scene(np.random.default_rng([424242, i])) for i in range(n)]
    return scenes, torch.from_numpy(np.stack([render(s).image for s in scenes])).permute(0, 3, 1, 2).float() / 255


def dense(*things):
    """Perfect dense predictions for rectangular things (kind, color, x0, y0, x1, y1), later ones in front."""
    kind, color, pattern = np.zeros((len(LABELS), 64, 64)), np.zeros((len(COLORS), 64, 64)), np.zeros((2, 64, 64))
    way, (ys, xs) = np.zeros((2, 64, 64)), np.mgrid[:64, :64]
    kind[0], pattern[0] = 1, 1
    for name, ink, x0, y0, x1, y1 in things:
        on = block(x0, y0, x1, y1)
        kind[:, on], color[:, on] = 0, 0
        kind[LABELS.index(name), on], color[list(COLORS).index(ink), on] = 0.9, 1
        way[:, on] = np.stack([(x0 + x1) / 2 - xs[on], (y0 + y1) / 2 - ys[on]])
    return kind, color, pattern, way


def test_touching_objects_of_one_kind_are_two_and_a_split_object_is_one():
    touching = instances(*dense(("ball", "red", 0, 0, 16, 16), ("ball", "red", 16, 0, 32, 16)))
    assert sorted(f.box for f in touching) == [(0, 0, 16, 16), (16, 0, 32, 16)]
    behind = instances(*dense(("box", "red", 0, 0, 40, 12), ("car", "blue", 16, 0, 24, 12)))
    assert sorted((f.kind, f.box, int(f.mask.sum())) for f in behind) == [
        ("box", (0, 0, 40, 12), 32 * 12),
        ("car", (16, 0, 24, 12), 96),
    ]
    assert [f.score for f in behind] == pytest.approx([0.9, 0.9])


def test_small_or_malformed_components_are_no_objects():
    assert instances(*dense(("ball", "red", 0, 0, 6, 6), ("malformed", "red", 20, 20, 40, 40))) == []


@pytest.fixture(scope="module")
def judge():
    return load_judge("judge")


def test_judge_on_unseen_scenes(judge):
    scenes, images = unseen(60)
    got = evaluate(judge, scenes, images)
    assert got["mask_iou"] >= 0.9 and got["class_acc"] >= 0.97 and got["color_acc"] >= 0.97
    assert got["background_acc"] >= 0.97 and got["extra_objects"] <= 0.05
    assert judge.features(images[:3]).shape == (3, 64)


def test_judge_rejects_malformed_shapes_of_generators_it_never_saw(judge):
    assert reject(judge, TESTING, n=60, seed=77) >= 0.9


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (48, 48)])
def test_objects_of_other_sizes_come_back_in_the_pictures_own_pixels(judge, size):
    _, images = unseen(12)
    scale = np.array([size[1] / 64, size[0] / 64] * 2)
    found = judge.recognise(F.interpolate(images, size, mode="bilinear"))
    same = 0
    for ours, reference in zip(found, judge.recognise(images), strict=True):
        for f in ours:
            assert f.mask.shape == size and f.mask[f.box[1] : f.box[3], f.box[0] : f.box[2]].sum() == f.mask.sum() > 0
        of = {(f.kind, f.color): f.box for f in ours}
        same += sum(
            (f.kind, f.color) in of and np.abs(np.array(of[f.kind, f.color]) - scale * f.box).max() <= 3 * scale.max()
            for f in reference
        )
    assert same >= 0.9 * sum(len(f) for f in judge.recognise(images))


def test_the_models_own_size_is_not_resized(judge):
    """Objects, features and the pyramid of 64x64 pictures are those of the pictures as they are."""
    _, images = unseen(3)
    torch.testing.assert_close(judge.features(images), judge(images)["features"].detach(), atol=1e-4, rtol=1e-4)
    assert [scale.shape[-1] for scale in judge.pyramid(images.repeat_interleave(2, 2))] == [64, 32, 16, 8, 4, 64]


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (0, 3, 64, 64)])
def test_what_is_no_batch_of_pictures_is_refused(judge, shape):
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\) images in \[0, 1\], not "):
        judge.recognise(torch.zeros(shape))


def test_an_unknown_judge_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown judge 'clip'; choose one of judge, judge-clip, quality"):
        load_judge("clip")
