"""The guide segmenter: gradients, shapes, independence of phrases, the Hub's layout, and its accuracy."""

import numpy as np
import pytest
import torch

from helpers.miniature.world import random_scene, render
from helpers.paths import weights
from helpers.perception.segmenter import Segmenter
from helpers.training.estimates import soften
from helpers.training.segmenter import PHRASES, Student, View, build, criterion, evaluate, loss, overlap
from helpers.training.text import tokenizer


@pytest.fixture(scope="module")
def untrained():
    return Segmenter(build(), tokenizer())


@pytest.fixture(scope="module")
def guide():
    return Segmenter.load(weights("guide-segmenter"))


def scenes(n, seed=31337):
    drawn = [random_scene(np.random.default_rng([seed, i])) for i in range(n)]
    images = torch.from_numpy(np.stack([render(s).image for s in drawn])).permute(0, 3, 1, 2).float() / 255
    return drawn, images


def test_logits_follow_images_and_phrases():
    segmenter = Segmenter(build().double(), tokenizer())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    words = segmenter.embed(["red car", "small striped blue fish", "tree"])
    logits = segmenter(images, words)
    assert logits.shape == (2, 3, 64, 64)
    alone = segmenter(images[1:], words[2:])
    torch.testing.assert_close(alone[0, 0], logits[1, 2], atol=1e-5, rtol=1e-5)
    by_image = segmenter(images, torch.stack([words[:2], words[1:]]))
    torch.testing.assert_close(by_image[1, 1], logits[1, 2], atol=1e-5, rtol=1e-5)


def test_logits_are_float32_whatever_the_network_is(untrained):
    assert untrained(torch.rand(1, 3, 64, 64), untrained.embed(["tree"])).dtype == torch.float32


def test_padding_does_not_change_a_phrase(untrained):
    together = untrained.embed(["tree", "small striped blue fish"])
    torch.testing.assert_close(untrained.embed(["tree"])[0], together[0], atol=1e-5, rtol=1e-5)


def test_gradient_reaches_the_image_and_is_that_of_finite_differences():
    segmenter = Segmenter(build().double(), tokenizer())
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 64, 64, generator=g, dtype=torch.float64).requires_grad_()
    words = segmenter.embed(["red car"])
    direction = torch.randn(x.shape, generator=g, dtype=torch.float64)

    def f(images):
        return segmenter(images, words).double().sigmoid().mean()

    (gradient,) = torch.autograd.grad(f(x), x)
    h = 1e-3  # logits are float32: a finer step drowns in rounding
    expected = (f(x + h * direction) - f(x - h * direction)) / (2 * h)
    assert (gradient * direction).sum().item() == pytest.approx(expected.item(), rel=2e-2)
    assert gradient.abs().sum((0, 1)).min() > 0


def test_parameters_are_frozen_and_text_is_computed_without_gradient(untrained):
    assert not any(p.requires_grad for p in untrained.parameters())
    assert not untrained.embed(["red car"]).requires_grad


def test_bad_input_is_named(untrained):
    with pytest.raises(ValueError, match="'  ' is empty"):
        untrained.embed(["red car", "  "])
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\).*\(3, 64, 64\)"):
        untrained(torch.zeros(3, 64, 64), untrained.embed(["red car"]))


def test_training_view_asks_for_what_is_there_and_for_what_is_not():
    view, rng = View(), np.random.default_rng(0)
    for i in range(20):
        scene = random_scene(np.random.default_rng([5, i]))
        item = view(scene, rng)
        areas = item["masks"].sum((1, 2))
        n = len(scene.things)
        assert item["ids"].shape[0] == PHRASES and (areas[:n] > 0).all() and (areas[n:] == 0).all()
        assert item["masks"].any(0).sum() == (item["kind"] > 0).sum()


def test_criterion_is_small_at_the_target_and_large_away_from_it():
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, 2:6, 2:6] = True
    right = torch.where(masks, 12.0, -12.0)
    assert criterion(right, masks.float()) < 1e-3 < 1 < criterion(-right, masks.float())
    assert overlap(right, masks) == 1 and overlap(-right, masks) == 0


def test_softening_spares_some_images_and_blurs_others():
    _, images = scenes(64)
    soft = soften(images, torch.Generator().manual_seed(0))
    edges = [torch.nn.functional.avg_pool2d(x, 4).diff(dim=2).abs().mean((1, 2, 3)) for x in (images, soft)]
    kept = edges[1] / edges[0]
    assert 0.4 < (kept > 0.85).float().mean() < 0.9 and kept.min() < 0.6
    assert soft.min() >= 0 and soft.max() <= 1


def test_a_training_step_moves_vision_text_and_decoder():
    student, view = Student(), View()
    items = [view(random_scene(np.random.default_rng([6, i])), np.random.default_rng(i)) for i in range(2)]
    batch = {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}
    loss(student, batch, torch.Generator().manual_seed(0))[0].backward()
    clip, moved = student.guide.clip, lambda module: any(p.grad is not None for p in module.parameters())
    assert moved(clip.text_model) and moved(clip.vision_model.embeddings) and moved(student.guide.decoder)


def test_the_decoder_starts_from_the_alignment():
    """Right after `start_decoder` the decoder's first layer reads the product of patch and text embeddings."""
    student = Student().start_decoder()
    decoder, clip = student.guide.decoder, student.guide.clip
    states, _ = student.see(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    text = student.read(torch.from_numpy(np.array(tokenizer()(["red car"])["input_ids"]))[None])[0]
    seen = []
    hook = decoder.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    decoder(states, text)
    hook.remove()
    sign = torch.tensor([1.0, -1.0]).repeat(32)
    torch.testing.assert_close(seen[0], clip.visual_projection(states[-1]) * text * sign, atol=1e-5, rtol=1e-4)


def test_guide_finds_phrases_in_unseen_scenes(guide):
    drawn, images = scenes(60)
    got = evaluate(guide, drawn, images)
    assert got["mask_iou"] >= 0.85 and got["false_alarms"] <= 0.05
