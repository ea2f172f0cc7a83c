"""Descent on x_t: along the gradient, per image, until a goal; what is not finite is skipped and named."""

import pytest
import torch
from single_steps import LAYOUTS, PROMPTS, begun

from helpers.backbones.attention import Layers
from helpers.guidance.cfg import CFG
from helpers.guidance.layout_guidance import LayoutGuidance, outside
from helpers.sampling.descent import descend
from helpers.sampling.hooks import Window
from helpers.sampling.loop import sample


def descended(backbone, ctx, above=0.0, rate=1.0, most=1):
    """With the loss: how little is looked at token 3 anywhere. Also which images it was asked for."""
    asked = []

    def loss(seen, index):
        asked.append(index)
        return torch.stack([1 - maps[..., 3].mean((1, 2)) for maps in seen.of(Layers()).values()]).mean(0)

    return *descend(ctx, "looks", Layers(), loss, rate, most, above), asked


def test_an_image_that_fulfils_its_goal_moves_no_further(tiny):
    """As in the authors' loops, by the gradient of the evaluation that finds it: once."""
    ctx = begun(tiny, PROMPTS)
    once, first, _ = descended(tiny, ctx, above=2.0, rate=1e-3)
    assert first[0] != first[1] and not torch.equal(once, ctx.x_t)
    better, worse = first.argmin().item(), first.argmax().item()
    ctx = begun(tiny, PROMPTS)
    x_t, again, asked = descended(tiny, ctx, above=first.mean().item(), rate=1e-3, most=3)
    assert torch.equal(x_t[better], once[better]) and not torch.allclose(x_t[worse], once[worse], atol=1e-9)
    assert asked == [[0, 1], [worse], [worse]] and torch.equal(again, first)
    assert (ctx.cost.forwards, ctx.cost.backwards) == (4, 4)
    content, _, asked = descended(tiny, begun(tiny, PROMPTS), above=2.0, rate=1e-3, most=5)
    assert torch.equal(content, once) and asked == [[0, 1]]


def test_images_that_need_not_go_are_left_alone(tiny):
    ctx = begun(tiny, PROMPTS)

    def loss(seen, index):
        assert index == [1]
        return torch.stack([1 - maps[..., 3].mean((1, 2)) for maps in seen.of(Layers()).values()]).mean(0)

    x_t, first = descend(ctx, "looks", Layers(), loss, 1.0, going=torch.tensor([False, True]))
    assert torch.equal(x_t[0], ctx.x_t[0]) and not torch.equal(x_t[1], ctx.x_t[1])
    assert first[0] == 0 < first[1] and ctx.cost.forwards == 1
    x_t, first = descend(ctx, "looks", Layers(), loss, 1.0, going=torch.tensor([False, False]))
    assert torch.equal(x_t, ctx.x_t) and not first.any() and ctx.cost.forwards == 1


def test_descent_is_along_the_gradient_and_lowers_the_loss(tiny):
    ctx = begun(tiny, PROMPTS)
    x_t, first, _ = descended(tiny, ctx, rate=30.0)
    _, second, _ = descended(tiny, begun(tiny, PROMPTS, x_t=x_t))
    assert (second < first).all()
    half, _, _ = descended(tiny, begun(tiny, PROMPTS), rate=torch.tensor(15.0))
    torch.testing.assert_close(x_t - ctx.x_t, 2 * (half - ctx.x_t), rtol=1e-3, atol=1e-6)
    twice, _, _ = descended(tiny, begun(tiny, PROMPTS), rate=30.0, most=2)
    torch.testing.assert_close(twice, descended(tiny, begun(tiny, PROMPTS, x_t=x_t), rate=30.0)[0])


class Broken(LayoutGuidance):
    """Whose loss of the run's second image is not a number."""

    def before(self, ctx, state):
        def loss(seen, index):
            found = outside(seen, state.regions.part(index), state.layers)
            return found * torch.where(torch.tensor(index) == 1, torch.nan, 1.0)

        return descend(ctx, self.name, state.layers, loss, 30.0)[0]


def test_a_descent_along_no_number_is_skipped_and_named(mini):
    args = {"steps": 4, "seeds": [5, 6]}
    run = sample(mini, PROMPTS, [CFG(), Broken(layouts=LAYOUTS, window=Window(0, 0.25))], **args)
    plain = sample(mini, PROMPTS, [CFG()], **args)
    assert run.warnings == [
        "image 1 (seed 6), step 0 of 4: broken's gradient is not finite: lower the scale; its update was skipped"
    ]
    assert not torch.equal(run.images[0], plain.images[0])
    torch.testing.assert_close(run.images[1], plain.images[1], atol=1e-4, rtol=0)
    with pytest.raises(FloatingPointError, match=r"image 1 \(seed 6\), step 0 of 4.*: lower the scale"):
        sample(mini, PROMPTS, [CFG(), Broken(layouts=LAYOUTS)], strict=True, **args)


def test_images_descend_independently_of_their_batch(tiny):
    together = descended(tiny, begun(tiny, PROMPTS), rate=30.0, most=2)
    for k in (0, 1):
        alone = descended(tiny, begun(tiny, PROMPTS, index=[k]), rate=30.0, most=2)
        torch.testing.assert_close(alone[0][0], together[0][k], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone[1][0], together[1][k])
        assert alone[2] == [[k], [k]]
