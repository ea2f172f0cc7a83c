"""Metrics on hand-made cases whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import block, case, found

from helpers.judges.base import Found
from helpers.metrics import appearance, distribution, layout, stats

CAR, FISH = ("car", "red", 0, 0, 20, 20), ("fish", "blue", 40, 40, 60, 50)


# --- layout -----------------------------------------------------------------------------------------------------------


def test_a_perfect_image_has_perfect_scores():
    got = layout.score(case(CAR, FISH), [found(*FISH), found(*CAR)], "grass")
    ones = {"mask_iou", "box_iou", "recall", "color_acc", "pattern_acc", "background_acc"}
    assert {k for k, v in got.items() if v == pytest.approx(1)} == ones
    assert got["extra_objects"] == 0 and got["size_error"] == 0 and got["distance_error"] == 0


def test_an_absent_object_counts_zero_and_has_no_geometry():
    got = layout.score(case(CAR, FISH), [found(*CAR)], "sand")
    assert (got["mask_iou"], got["box_iou"], got["recall"], got["background_acc"]) == (0.5, 0.5, 0.5, 0)
    assert got["color_acc"] == 1 and np.isnan(got["size_error"]) and np.isnan(got["distance_error"])
    nothing = layout.score(case(CAR, FISH), [], "grass")
    assert nothing["mask_iou"] == nothing["recall"] == nothing["extra_objects"] == 0 and np.isnan(nothing["color_acc"])


def test_iou_of_a_shifted_object_and_of_masks_apart_from_boxes():
    got = layout.score(case(CAR), [found("car", "red", 10, 0, 30, 20)], "grass")
    assert got["mask_iou"] == got["box_iou"] == pytest.approx(200 / 600)
    half = Found("car", "red", "plain", 0.9, (0, 0, 20, 20), block(0, 0, 20, 10))
    got = layout.score(case(CAR), [half], "grass")
    assert got["box_iou"] == 1 and got["mask_iou"] == 0.5


def test_regions_take_objects_of_their_kind_one_to_one_and_prefer_their_colour():
    two = case(("ball", "red", 0, 0, 10, 10), ("ball", "blue", 30, 30, 40, 40))
    swapped = [found("ball", "blue", 0, 0, 10, 10), found("ball", "red", 30, 30, 40, 40)]
    assert layout.score(two, swapped, "grass")["color_acc"] == 1
    assert layout.score(two, swapped, "grass")["mask_iou"] == 0
    one = [found("ball", "red", 0, 0, 10, 10), found("box", "blue", 30, 30, 40, 40)]
    got = layout.score(two, one, "grass")
    assert got["recall"] == 0.5 and got["extra_objects"] == 1
    recoloured = [found("ball", "green", 0, 0, 10, 10), found("ball", "blue", 30, 30, 40, 40)]
    assert layout.score(two, recoloured, "grass") | {"color_acc": 0.5} == layout.score(two, recoloured, "grass")


def test_a_duplicate_is_an_extra_object():
    got = layout.score(case(CAR), [found(*CAR), found("car", "red", 40, 40, 60, 60)], "grass")
    assert got["extra_objects"] == 1 and got["mask_iou"] == 1


def test_size_and_distance_errors_are_those_of_dga():
    bigger = [found("car", "red", 0, 0, 20, 40), found(*FISH)]
    got = layout.score(case(CAR, FISH), bigger, "grass")
    assert got["size_error"] == pytest.approx(np.log(2))
    assert got["distance_error"] == pytest.approx(10 / (64 * 2**0.5))
    moved_together = [found("car", "red", 3, 5, 23, 25), found("fish", "blue", 43, 45, 63, 55)]
    got = layout.score(case(CAR, FISH), moved_together, "grass")
    assert got["size_error"] == pytest.approx(0) and got["distance_error"] == pytest.approx(0)
    alone = layout.score(case(CAR), [found("car", "red", 3, 4, 23, 24)], "grass")
    assert alone["distance_error"] == pytest.approx(5 / (64 * 2**0.5)) and alone["size_error"] == pytest.approx(0)


def test_scoring_refuses_a_layout_without_silhouettes():
    reduced = case(CAR)
    reduced = reduced.model_copy(update={"layout": reduced.layout.boxes_only()})
    with pytest.raises(ValueError, match="'red car'.*lacks its mask.*load_cases"):
        layout.score(reduced, [], "grass")


def test_average_precision_by_hand():
    cases = [case(CAR), case(FISH)]
    perfect = layout.AveragePrecision(cases, [[found(*CAR)], [found(*FISH)]])
    assert perfect(np.ones(2)) == pytest.approx(1)
    assert layout.AveragePrecision(cases, [[], []])(np.ones(2)) == 0
    wrong_first = [[found("car", "red", 30, 30, 50, 50, 0.99), found(*CAR, score=0.6)], []]
    ap = layout.AveragePrecision(cases, wrong_first)  # precision 1/2 up to recall 1/2: 51 of 101 points
    assert ap(np.ones(2)) == pytest.approx(0.5 * 51 / 101)
    assert ap(np.array([2.0, 0.0])) == pytest.approx(0.5)  # the second image is not in this bootstrap sample
    right_first = [[found("car", "red", 30, 30, 50, 50, 0.5), found(*CAR, score=0.6)], [found(*FISH, score=0.9)]]
    assert layout.AveragePrecision(cases, right_first)(np.ones(2)) == pytest.approx(1)


def test_average_precision_over_thresholds_and_duplicates():
    near = found("car", "red", 0, 0, 20, 15)  # IoU .75: right at .5, .55, ... .75, six of ten thresholds
    assert layout.AveragePrecision([case(CAR)], [[near]], layout.THRESHOLDS)(np.ones(1)) == pytest.approx(0.6)
    twice = [found(*CAR, score=0.9), found(*CAR, score=0.8)]
    pairs = layout.AveragePrecision([case(CAR)], [twice])
    assert pairs.right.ravel().tolist() == [1, 0]
    assert layout.AveragePrecision([case(CAR)], [[found("fish", "red", 0, 0, 20, 20)]])(np.ones(1)) == 0


# --- statistics -------------------------------------------------------------------------------------------------------


def test_mean_has_a_deterministic_interval_of_the_right_width():
    values = np.random.default_rng(0).normal(3, 1, 400)
    got = stats.mean(values)
    assert got == stats.mean(values) and got["n"] == 400
    assert got["mean"] == pytest.approx(values.mean()) and got["lo"] < got["mean"] < got["hi"]
    assert got["hi"] - got["lo"] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.12)


def test_nan_is_left_out_and_nothing_left_is_said():
    assert stats.mean([1.0, float("nan"), 3.0]) == stats.mean([1.0, 3.0])
    assert stats.mean([float("nan")])["n"] == 0


def test_paired_difference_sees_what_means_hide():
    baseline = np.random.default_rng(0).normal(0, 10, 50)
    better = baseline + 0.5 + 0.01 * np.random.default_rng(1).normal(size=50)
    got = stats.paired_difference(better, baseline)
    assert got["lo"] > 0.49 and got["hi"] < 0.51
    assert stats.mean(better)["lo"] < stats.mean(baseline)["mean"]
    with pytest.raises(ValueError, match="same prompts"):
        stats.paired_difference([1.0], [1.0, 2.0])


def test_bootstrap_of_a_mean_is_the_mean():
    values = np.random.default_rng(0).normal(size=30)
    got = stats.bootstrap(lambda w: w @ values / w.sum(), 30)
    assert got == pytest.approx(stats.mean(values), abs=0.02)  # but for the bias of a thousand draws


# --- distributions ----------------------------------------------------------------------------------------------------


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    g = torch.Generator().manual_seed(0)
    reference = torch.randn(400, 8, generator=g)
    same = [distribution.KernelDistance(torch.randn(40, 8, generator=g), reference)(np.ones(40)) for _ in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 60**0.5
    shifted = distribution.kernel_distance(torch.randn(100, 8, generator=g) + 1, reference)
    assert shifted["lo"] > 0 and shifted["lo"] < shifted["mean"] < shifted["hi"]


def test_kernel_distance_interval_is_centred_though_samples_repeat_images():
    g = torch.Generator().manual_seed(0)
    got = distribution.kernel_distance(torch.randn(60, 8, generator=g), torch.randn(400, 8, generator=g))
    assert (
        got["lo"] < got["mean"] < got["hi"] and abs((got["lo"] + got["hi"]) / 2 - got["mean"]) < got["hi"] - got["mean"]
    )


def test_kernel_distance_by_hand():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[-1.0], [1.0]])  # y has mean 0 and deviation 1
    k = lambda a, b: (a * b + 1) ** 3  # noqa: E731
    across = np.mean([k(0, -1), k(0, 1), k(1, -1), k(1, 1)])
    expected = k(0, 1) + k(-1, 1) - 2 * across
    assert distribution.KernelDistance(x, y)(np.ones(2)) == pytest.approx(expected, abs=1e-6)


def test_kernel_difference_of_a_set_to_itself_is_zero():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 8, generator=g), torch.randn(100, 8, generator=g)
    assert distribution.kernel_distance_difference(x, x, y) == {"mean": 0, "lo": 0, "hi": 0, "n": 50}
    assert distribution.kernel_distance_difference(x + 1, x, y)["lo"] > 0


def test_frechet_of_gaussians_by_hand():
    g = torch.Generator().manual_seed(0)
    reference = torch.randn(20_000, 2, generator=g)
    scaled = torch.randn(20_000, 2, generator=g) * 2 + torch.tensor([3.0, 0.0])
    assert distribution.frechet(reference, reference) == pytest.approx(0, abs=1e-6)
    assert distribution.frechet(scaled, reference) == pytest.approx(9 + 2 * (2 - 1) ** 2, rel=0.03)
    with pytest.raises(ValueError, match="more images"):
        distribution.frechet(reference[:2], reference)


def test_interval_of_a_statistic_that_repeats_bias_contains_it():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(100, 32, generator=g), torch.randn(1000, 32, generator=g)
    drawn = lambda w: x.repeat_interleave(torch.from_numpy(w).long(), 0)  # noqa: E731
    got = stats.bootstrap(lambda w: distribution.frechet(drawn(w), y), 100, draws=60)
    assert got["lo"] < got["mean"] < got["hi"]


# --- appearance -------------------------------------------------------------------------------------------------------


def test_contrast_and_saturation_by_hand():
    grey = torch.full((3, 8, 8), 0.5)
    halves = torch.cat([torch.zeros(3, 8, 4), torch.ones(3, 8, 4)], 2)
    red = torch.zeros(3, 8, 8)
    red[0] = 0.7
    images = torch.stack([grey, halves, red])
    assert appearance.contrast(images).tolist() == pytest.approx([0, 0.5, 0], abs=1e-6)
    assert appearance.saturation(images).tolist() == pytest.approx([0, 0, 1], abs=1e-6)


def test_the_size_of_the_picture_does_not_matter():
    """The same picture at twice the side and at another ratio: objects and targets in its own pixels."""
    prompt = case(CAR, FISH)
    small = [found(*CAR), found("fish", "blue", 36, 40, 56, 50)]
    expected = layout.score(prompt, small, "grass")
    for sy, sx in ((2, 2), (1, 3)):
        masks = [np.kron(f.mask, np.ones((sy, sx), bool)) for f in small]
        boxes = [tuple(v * s for v, s in zip(f.box, (sx, sy) * 2)) for f in small]
        large = [replace(f, mask=mask, box=box) for f, mask, box in zip(small, masks, boxes)]
        got = layout.score(prompt, large, "grass")
        same = [name for name in expected if sx == sy or name != "distance_error"]
        assert {name: got[name] for name in same} == pytest.approx({name: expected[name] for name in same})
        precision = [layout.AveragePrecision([prompt], [objects])(np.ones(1)) for objects in (small, large)]
        assert precision[0] == precision[1]
