"""The CLIP score: a cosine of whole pictures with whole captions."""

import pytest
import torch

from helpers.judges.clip_score import clip_score
from helpers.judges.loading import load_judge
from helpers.training.held_out import held_out


def test_the_clip_score_is_a_cosine_of_the_whole_picture():
    clip = load_judge("judge-clip")
    images = held_out(3)[1]
    texts = ["a red car on grass", "a blue fish", "a striped pink moon at night"]
    scores = clip_score(clip, images, texts, batch=2)
    expected = 100 * (clip(images) * clip.embed(texts)).sum(1)
    torch.testing.assert_close(scores, expected.clamp(min=0), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="3 images and 1 captions"):
        clip_score(clip, images, texts[:1])
