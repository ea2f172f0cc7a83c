"""Errors that are put into guides are as large as stated, the same in every call, and leave valid boxes."""

import pytest
import torch

from helpers.paths import weights
from helpers.perception.disturbed import DisturbedDetector, DisturbedSegmenter
from helpers.perception.segmenter import Segmenter


class Steps:
    """A segmenter by hand: phrase n has the logit n + the image's mean colour."""

    def embed(self, phrases):
        return torch.arange(float(len(phrases)))[:, None]

    def __call__(self, images, embeddings):
        numbers = embeddings if embeddings.dim() == 3 else embeddings.expand(len(images), -1, -1)
        return images.mean(1, keepdim=True) + numbers[..., None]


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_disturbed_segmenter_is_wrong_by_as_much_as_asked(size):
    right, images = Steps(), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    words = right.embed(["car", "fish", "ball"])
    error = DisturbedSegmenter(right, 2.5)(images, words) - right(images, words)
    rms = error.square().mean((2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.full((2, 3), 2.5))
    torch.testing.assert_close(error[0], error[1])
    assert error.abs().max() < 12
    apart = (error[0, 0] - error[0, 1]).square().mean().sqrt()
    assert apart > 1, "another error for every phrase"
    assert all(error.diff(dim=dim).square().mean().sqrt() < 1 for dim in (2, 3)), "of white noise it would be 3.5"


def test_a_disturbed_segmenter_says_the_same_in_every_call():
    images, words = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.ones(2, 2, 1)
    wrong = DisturbedSegmenter(Steps(), 2.0)
    assert torch.equal(wrong(images, words), wrong(images, words))
    assert torch.equal(wrong(images, words), DisturbedSegmenter(Steps(), 2.0)(images, words))
    assert not torch.allclose(wrong(images, words), DisturbedSegmenter(Steps(), 2.0, seed=1)(images, words))
    assert torch.equal(wrong(images[:1], words[:1]), wrong(images, words)[:1])


def test_a_segmenter_with_error_0_is_exact_and_embeds_as_before():
    right = Segmenter.load(weights("guide-segmenter"))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    exact = DisturbedSegmenter(right, 0.0)
    words = exact.embed(["red car", "blue fish"])
    assert torch.equal(words, right.embed(["red car", "blue fish"]))
    assert torch.equal(exact(images, words), right(images, words))
    grads = [torch.autograd.grad(net(images, words).square().sum(), images)[0] for net in (exact, right)]
    assert torch.equal(*grads) and grads[0].any()


class Boxes:
    """A detector by hand: always these boxes, the last one not found."""

    boxes = torch.tensor([[10.0, 12, 30, 40], [0, 0, 24, 20], [40, 30, 48, 48], [0, 0, 0, 0]])
    scores = torch.tensor([0.9, 0.5, 0.7, 0.0])

    def __call__(self, images, phrases):
        return self.boxes.expand(len(images), -1, -1).clone(), self.scores.expand(len(images), -1).clone()


PICTURES = torch.zeros(2, 3, 48, 64)
PHRASES = [["red car", "blue fish", "ball", "star"]] * 2


def test_a_detector_with_error_0_is_exact():
    boxes, scores = DisturbedDetector(Boxes(), 0.0)(PICTURES, PHRASES)
    assert torch.equal(boxes[0, :3], Boxes.boxes[:3]) and torch.equal(scores[1], Boxes.scores)


def test_what_is_not_found_stays_without_a_box():
    boxes, scores = DisturbedDetector(Boxes(), 3.0)(PICTURES, PHRASES)
    assert not scores[:, 3].any() and not boxes[:, 3].any()


@pytest.mark.parametrize("pixels", [1.0, 8.0, 100.0])
def test_disturbed_boxes_are_valid_and_inside(pixels):
    for seed in range(20):
        boxes, scores = DisturbedDetector(Boxes(), pixels, seed)(PICTURES, PHRASES)
        low, high = boxes[:, :3].split(2, -1)
        assert low.min() >= 0 and (high <= torch.tensor([64, 48])).all() and (high - low).min() >= 1
        assert torch.equal(scores, Boxes.scores.expand(2, -1)) and not torch.equal(boxes[0], Boxes.boxes)


def test_a_disturbed_detector_moves_sides_by_as_much_as_asked_and_the_same_in_every_call():
    middle = Boxes()
    middle.boxes, middle.scores = torch.tensor([[400.0, 400, 600, 600]]).repeat(4, 1), torch.ones(4)
    images, found = torch.zeros(2, 3, 1000, 1000), []
    for seed in range(100):
        wrong = DisturbedDetector(middle, 4.0, seed)
        boxes, _ = wrong(images, PHRASES)
        assert torch.equal(boxes, wrong(images, PHRASES)[0]) and torch.equal(boxes[0], boxes[1])
        assert len(boxes[0].unique(dim=0)) == 4, "otherwise for each phrase"
        found.append(boxes[0] - middle.boxes)
    error = torch.stack(found)
    assert error.square().mean().sqrt().item() == pytest.approx(4, rel=0.05) and abs(error.mean()) < 0.5
