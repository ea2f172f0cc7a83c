"""Directed Diffusion: the bump, and attention directed into boxes."""

import pytest
import torch
from single_steps import LAYOUTS, PROMPTS, begun, edits, randoms

from helpers.backbones.attention import Site
from helpers.guidance.directed import Directed, bump


def test_bump_is_one_at_the_centre_and_zero_outside():
    box = torch.zeros(1, 2, 9, 12)
    box[0, 0, 2:7, 4:7] = 1  # 5 x 3 cells about (4, 5); the other region is padding
    found = bump(box)
    assert found[0, 0, 4, 5] == 1 and found.max() == 1 and not found[0, 1].any()
    assert (found[box == 0] == 0).all() and (found[box == 1] > 0).all()
    torch.testing.assert_close(found[0, 0, 2, 5], torch.tensor(-((2 / 2.5) ** 2) / 2).exp())
    torch.testing.assert_close(found[0, 0, 4, 4], torch.tensor(-((1 / 1.5) ** 2) / 2).exp())
    torch.testing.assert_close(found.flip(3), bump(box.flip(3)))


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_attention_is_directed(tiny, scale):
    directed = Directed(layouts=LAYOUTS, scale=scale)
    (edit,) = edits(begun(tiny, PROMPTS, [directed]), directed)
    probs = randoms(2, 4, 64, 77, dtype=torch.float32)
    found = edit.probs(probs, Site("x", "cross", "up", (8, 8), 0))
    length = len(tiny.pipe.tokenizer(PROMPTS[1])["input_ids"])
    assert length == 9
    edited = [2, 3, *range(8, 8 + 15)]  # blue ball, and from the end of text on
    ball = torch.zeros(1, 1, 8, 8)
    ball[..., :4, 4:] = 1
    inside, shape = ball.flatten().bool(), bump(ball).flatten()[None, :, None]
    own = probs[1][..., edited]
    expected = own + scale * own.amax(1, keepdim=True) * shape
    torch.testing.assert_close(found[1][..., edited][:, inside], expected[:, inside])
    torch.testing.assert_close(found[1][..., edited][:, ~inside], 0.01 * own[:, ~inside])
    kept = [k for k in range(77) if k not in edited]
    assert torch.equal(found[1][..., kept], probs[1][..., kept])


def test_trailing_tokens_belong_to_any_box(tiny):
    directed = Directed.paper(layouts=LAYOUTS, scale=0.0, trailing=1)
    (edit,) = edits(begun(tiny, PROMPTS, [directed]), directed)
    end = len(tiny.pipe.tokenizer(PROMPTS[0])["input_ids"]) - 1
    found = edit.probs(torch.ones(2, 1, 64, 77), Site("x", "cross", "up", (8, 8), 0))[0, 0].view(8, 8, 77)
    both = torch.full((8, 8), 0.01)
    both[2:6, :4] = both[2:6, 5:] = 1
    torch.testing.assert_close(found[..., end], both)
    assert (found[..., end + 1 :] == 1).all() and (found[..., 0] == 1).all()
