"""Metrics on hand-made cases whose answer is known, and the judge on scenes that it never saw."""

import numpy as np
import pytest
import torch

from helpers.conditions import Layout, Region, encode_mask
from helpers.metrics import appearance, distribution, layout, stats
from helpers.metrics.judge import LABELS, Found, Judge, instances
from helpers.miniature.benchmark import Case, Named
from helpers.miniature.judge import evaluate, reject
from helpers.miniature.malformed import TESTING, TRAINING, likeness, malformed
from helpers.miniature.world import COLORS, KINDS, PATTERNS, random_scene, render, sprite
from helpers.paths import weights


def block(x0, y0, x1, y1):
    mask = np.zeros((64, 64), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def found(kind, color, x0, y0, x1, y1, score=0.9, pattern="plain"):
    return Found(kind, color, pattern, score, (x0, y0, x1, y1), block(x0, y0, x1, y1))


def case(*things, background="grass"):
    """A benchmark case of rectangular things: (kind, color, x0, y0, x1, y1)."""
    prompt = " and ".join(f"a {color} {kind}" for kind, color, *_ in things)
    regions = [
        Region(phrase=f"{c} {k}", box=tuple(v / 64 for v in box), mask=encode_mask(block(*box)))
        for k, c, *box in things
    ]
    names = tuple(Named(kind=k, color=c, pattern="plain", size="small") for k, c, *_ in things)
    written = Layout(prompt=prompt, regions=tuple(regions))
    return Case(id="x-0", seed=1, prompt=prompt, seen=True, background=background, layout=written, things=names)


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


# --- the judge --------------------------------------------------------------------------------------------------------


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


def test_malformed_shapes_are_made_unlike_every_silhouette():
    rng = np.random.default_rng(0)
    assert all(likeness(sprite(kind, "red", PATTERNS[0], 26)[..., 3]) > 0.8 for kind in KINDS)
    for generator in (*TRAINING, *TESTING):
        patch = malformed((generator,), 24, rng)
        assert patch.shape == (24, 24, 4) and patch.min() >= 0 and patch.max() <= 1 and likeness(patch[..., 3]) < 0.78


@pytest.fixture(scope="module")
def judge():
    return Judge.from_pretrained(weights("judge")).eval()


def test_judge_on_unseen_scenes(judge):
    scenes = [random_scene(np.random.default_rng([424242, i])) for i in range(60)]
    images = torch.from_numpy(np.stack([render(s).image for s in scenes])).permute(0, 3, 1, 2).float() / 255
    got = evaluate(judge, scenes, images)
    assert got["mask_iou"] >= 0.9 and got["class_acc"] >= 0.97 and got["color_acc"] >= 0.97
    assert got["background_acc"] >= 0.97 and got["extra_objects"] <= 0.05
    assert judge.features(images[:3]).shape == (3, 64)


def test_judge_rejects_malformed_shapes_of_generators_it_never_saw(judge):
    assert reject(judge, TESTING, n=60, seed=77) >= 0.9


def test_judge_refuses_images_of_another_size(judge):
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\): resize"):
        judge.recognise(torch.zeros(1, 3, 32, 32))
