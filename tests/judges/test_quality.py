"""The quality of pictures: a logistic regression fitted as told, its measures, flaws, and that it sees them."""

import json

import numpy as np
import pytest
import torch

from helpers.benchmarks.miniature import load_cases
from helpers.judges import quality
from helpers.judges.quality import Quality, layers_of
from helpers.miniature.scene import Scene, Thing
from helpers.miniature.world import random_scene, render
from helpers.paths import weights
from helpers.perception.similarity import Similarity
from helpers.pipeline.samples import Samples
from helpers.pipeline.score import judge_images
from helpers.training import flaws
from helpers.training.flaws import FLAWS, pictures
from helpers.training.malformed import TESTING, TRAINING
from helpers.training.quality import fit, fitted, measure

FEW = {"fit": 72, "held-out": 48}


@pytest.fixture(scope="module")
def clip():
    return Similarity.load(weights("judge-clip"))


@pytest.fixture(scope="module")
def few():
    """(good, bad) of both splits."""
    return {split: pictures(split, n) for split, n in FEW.items()}


def clusters(gap, n=200, d=3):
    """Two clouds in d dimensions, `gap` apart along the first axis."""
    g = torch.Generator().manual_seed(0)
    good, bad = torch.randn(2, n, d, generator=g)
    good[:, 0] += gap / 2
    bad[:, 0] -= gap / 2
    return good, bad


# --- the regression --------------------------------------------------------------------------------------------------


def test_two_clouds_are_told_apart_along_the_axis_between_them():
    good, bad = clusters(6)
    w, b = fit(good, bad)
    assert w.shape == (3,) and w.dtype == torch.float32 and isinstance(b, float)
    assert (good @ w + b > 0).float().mean() > 0.99 and (bad @ w + b < 0).float().mean() > 0.99
    assert w[0] > 5 * w[1:].abs().max() and abs(b) < 0.5


def test_clouds_that_are_the_same_give_one_half():
    w, b = fit(*clusters(0, n=5000))
    assert w.abs().max() < 0.1 and abs(b) < 0.1


def test_more_flawless_pictures_raise_the_bias():
    same = torch.zeros(1, 2)
    w, b = fit(same.repeat(75, 1), same.repeat(25, 1))
    assert not w.any() and b == pytest.approx(np.log(3), abs=1e-3)


def test_at_the_fit_the_gradient_of_the_penalised_loss_vanishes():
    good, bad = clusters(1, n=50)
    w, b = fit(good, bad)
    x, y = torch.cat([good, bad]), torch.cat([torch.ones(50), torch.zeros(50)])
    wrong = (x @ w + b).sigmoid() - y
    torch.testing.assert_close((wrong[:, None] * x).mean(0) + 1e-2 * w, torch.zeros(3), atol=1e-4, rtol=0)
    assert wrong.mean().abs() < 1e-4


@pytest.mark.parametrize(("values", "p"), [([1.0, 2.0], 0.5), ([3.0, 2.0], 1 / (1 + np.exp(-2))), ([1.0, 5.0], 0.9526)])
def test_p_of_known_values(monkeypatch, values, p):
    monkeypatch.setattr(quality, "layers_of", lambda clip, images: torch.tensor([values]))
    head = Quality("clip", torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]), torch.tensor([2.0, 1.0]), 0.0)
    assert head("images").tolist() == pytest.approx([p], abs=1e-4)


def test_a_head_is_read_and_one_that_is_not_there_says_how_to_make_it(tmp_path):
    path = tmp_path / "head.json"
    with pytest.raises(FileNotFoundError, match=f"{path} is not there: run `dvc repro quality`"):
        Quality.load("clip", path)
    path.write_text(json.dumps({"mean": [1, 2], "spread": [2, 1], "weight": [0.5, 0], "bias": -1, "metrics": {}}))
    head = Quality.load("clip", path)
    assert (head.clip, head.mean.tolist(), head.spread.tolist()) == ("clip", [1, 2], [2, 1])
    assert (head.weight.tolist(), head.bias) == ([0.5, 0], -1)


# --- what it is measured by ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad", "auc", "ece"),
    [
        ([1.0, 1.0], [0.0, 0.0], 1, 0),
        ([0.0, 0.0], [1.0, 1.0], 0, 1),
        ([0.95], [0.05], 1, 0.05),
        ([0.75, 0.75, 0.75], [0.75], 0, 0),  # what is called .75 is flawless three times of four; ties order no pair
        ([0.9, 0.4], [0.6, 0.1], 0.75, (0.1 + 0.6 + 0.6 + 0.1) / 4),
        ([0.85, 1.0], [0.95], 0.5, (0.15 + 2 * 0.475) / 3),  # 1 belongs to the last bin
        ([0.55, 0.58], [0.51, 0.52], 1, 0.04),  # one bin: .54 on average, one half flawless
    ],
)
def test_auc_and_calibration_by_hand(good, bad, auc, ece):
    got = measure(torch.tensor(good), torch.tensor(bad))
    assert got == {"auc": pytest.approx(auc), "ece": pytest.approx(ece, abs=1e-6)}


# --- what CLIP's layers see ------------------------------------------------------------------------------------------


def test_layers_give_mean_and_deviation_over_the_patches_of_every_layer(clip, few):
    images, visual = few["fit"][0][:3], clip.model.visual
    seen, width = layers_of(clip, images), visual.conv1.out_channels
    assert seen.shape == (3, 2 * width * (1 + len(visual.transformer.resblocks))) and not seen.requires_grad
    last = []
    hook = visual.transformer.resblocks[-1].register_forward_hook(lambda layer, given, out: last.append(out[:, 1:].mT))
    clip(images)
    hook.remove()
    first = visual.conv1((images - clip.mean) / clip.std).flatten(2)
    for found, patches in ((seen[:, : 2 * width], first), (seen[:, -2 * width :], last[0])):
        assert patches.shape == (3, width, 64), "without the class token"
        torch.testing.assert_close(found, torch.cat([patches.mean(2), patches.std(2)], 1), atol=1e-4, rtol=1e-4)


def test_batches_do_not_matter_and_no_hook_stays(clip, few):
    images = few["fit"][1][:5]
    whole = layers_of(clip, images)
    torch.testing.assert_close(layers_of(clip, images, batch=2), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layers_of(clip, images[3:]), whole[3:], atol=1e-4, rtol=1e-4)
    assert not any(module._forward_hooks for module in clip.modules())


# --- pictures with and without a flaw --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", FLAWS)
def test_pictures_are_pairs_of_one_scene_and_repeat_exactly(few, split):
    good, bad = few[split]
    assert good.shape == bad.shape == (FEW[split], 3, 64, 64)
    assert all(0 <= part.min() and part.max() <= 1 for part in (good, bad))
    assert ((good - bad).abs().amax((1, 2, 3)) > 0.02).all(), "every flaw is one"
    assert all(torch.equal(*parts) for parts in zip(pictures(split, 6), pictures(split, 6), strict=True))


def test_flawless_pictures_are_the_rendered_scenes_through_the_autoencoder(few):
    rng = np.random.default_rng(flaws.SEEDS["fit"])
    rendered = np.stack([render(random_scene(rng)).image for _ in range(FEW["fit"])])
    error = few["fit"][0] - torch.from_numpy(rendered).permute(0, 3, 1, 2) / 255
    assert 0 < error.square().mean().sqrt() < 0.05


def test_the_splits_show_other_scenes(few):
    (one, _), (other, _) = few.values()
    assert ((one[:, None] - other).abs().mean((2, 3, 4)) > 0.01).all()


class Called:
    """Every function of torchvision, which only says its name and amounts."""

    def __getattr__(self, name):
        return lambda image, *amounts: (name, amounts[-1])


def test_held_out_flaws_are_of_other_kinds_or_go_the_other_way(monkeypatch):
    monkeypatch.setattr(flaws, "TF", Called())
    monkeypatch.setattr(flaws, "_malformed", lambda image, scene, rng, generators: ("malformed", generators))
    monkeypatch.setattr(flaws, "_noisy", lambda image, rng, low, high: ("noisy", low))
    rng = np.random.default_rng(0)
    found = {split: [[kind(None, None, rng) for _ in range(50)] for kind in FLAWS[split]] for split in FLAWS}
    names = {split: {calls[0][0] for calls in found[split]} for split in FLAWS}
    assert names["fit"] & names["held-out"] == {"adjust_saturation", "malformed"}
    of = {split: {calls[0][0]: [amount for _, amount in calls] for calls in found[split]} for split in FLAWS}
    assert min(of["fit"]["adjust_saturation"]) > 1 > max(of["held-out"]["adjust_saturation"])
    assert (of["fit"]["malformed"][0], of["held-out"]["malformed"][0]) == (TRAINING, TESTING)
    assert not set(TRAINING) & set(TESTING)


def test_every_flaw_gives_a_picture_of_its_own():
    scene = random_scene(np.random.default_rng(3), 2)
    image = torch.from_numpy(render(scene).image).permute(2, 0, 1) / 255
    for split, kinds in FLAWS.items():
        made = [kind(image, scene, np.random.default_rng(0)) for kind in kinds]
        assert all(one.shape == (3, 64, 64) and one.dtype == torch.float32 for one in made), split
        assert all(0 <= one.min() and one.max() <= 1 and (one - image).abs().max() > 0.02 for one in made), split


def test_a_malformed_object_takes_the_place_of_one_and_leaves_the_others():
    things = Thing("ball", "red", "plain", "small", 20, 14, 14), Thing("box", "blue", "plain", "small", 20, 46, 46)
    scene = Scene("grass", things)
    image = torch.from_numpy(render(scene).image).permute(2, 0, 1) / 255
    flawed = flaws._malformed(image, scene, np.random.default_rng(0), TRAINING)
    changed = (flawed - image).abs().amax(0) > 0.01
    assert changed[4:24, 4:24].any() and not changed[30:, 30:].any()


# --- the head --------------------------------------------------------------------------------------------------------


def test_a_fitted_head_prefers_the_flawless(clip, few):
    head = fitted(clip, *few["fit"])
    good, bad = (head(images) for images in few["fit"])
    assert good.shape == (FEW["fit"],) and 0 <= bad.min() and good.max() <= 1
    assert good.mean() > 0.7 > 0.3 > bad.mean()
    torch.testing.assert_close(head.mean, layers_of(clip, few["fit"][0]).mean(0))
    good, bad = (head(images) for images in few["held-out"])
    assert good.mean() > bad.mean() + 0.05, "flaws that it never saw, too"


def test_a_picture_has_one_quality_whatever_it_is_judged_with(clip, few):
    head, images = fitted(clip, *few["fit"]), few["held-out"][0][:6]
    torch.testing.assert_close(torch.cat([head(image[None]) for image in images]), head(images), atol=1e-4, rtol=1e-3)


class Blind:
    """A judge that finds nothing."""

    def recognise(self, images):
        return [[] for _ in images]

    def background(self, images):
        return ["grass" for _ in images]

    def features(self, images):
        return torch.zeros(len(images), 64)


def test_layout_scores_have_a_quality_where_one_is_asked():
    scenes = load_cases("dev")[:2]
    samples = Samples(torch.rand(2, 3, 64, 64), [{"id": scene.id, "seed": scene.seed} for scene in scenes], [])
    rows = judge_images(samples, scenes, Blind(), quality=lambda images: torch.tensor([0.25, 0.75])).rows
    assert [row["clip_iqa"] for row in rows] == [0.25, 0.75] and "clip_score" not in rows[0]
    assert "clip_iqa" not in judge_images(samples, scenes, Blind()).rows[0]
