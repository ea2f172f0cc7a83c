"""Composable Diffusion: concepts are added, and taken from layouts."""

import pytest
import torch
from single_steps import LAYOUTS, PROMPTS, begun, layout

from helpers.guidance.cfg import CFG
from helpers.guidance.composable import Composable, concepts
from helpers.sampling.loop import predict, sample


def test_one_concept_that_is_the_prompt_equals_cfg(tiny):
    run = sample(tiny, PROMPTS, [Composable(prompts=[[prompt] for prompt in PROMPTS], scale=5)], steps=4)
    plain = sample(tiny, PROMPTS, [CFG(5)], steps=4)
    torch.testing.assert_close(run.images, plain.images, atol=1e-4, rtol=0)


@torch.no_grad()
def test_concepts_are_added(tiny):
    method = Composable(prompts=[["a red car", "a blue fish"], ["a ball"]], scale=3.0)
    ctx = begun(tiny, PROMPTS, [method])
    predict(ctx, [method])
    x_t = ctx.x_t[:1], ctx.x_t[1:]
    none, car, fish = (tiny.predict(x_t[0], ctx.t, tiny.encode_text([c])) for c in ("", "a red car", "a blue fish"))
    torch.testing.assert_close(ctx.pred[:1], none + 3 * (car - none) + 3 * (fish - none), atol=1e-5, rtol=1e-4)
    none, ball = (tiny.predict(x_t[1], ctx.t, tiny.encode_text([c])) for c in ("", "a ball"))
    torch.testing.assert_close(ctx.pred[1:], none + 3 * (ball - none), atol=1e-5, rtol=1e-4)


def test_concepts_are_wanted_for_every_image(tiny):
    with pytest.raises(ValueError, match="Composable has prompts for 1 of 2 images: give each its list"):
        begun(tiny, PROMPTS, [Composable(prompts=[["a"]])])
    with pytest.raises(ValueError, match="image 1 has no concepts: give at least one"):
        begun(tiny, PROMPTS, [Composable(prompts=[["a"], []])])
    with pytest.raises(ValueError, match="Composable has no concepts: give prompts, or layouts"):
        begun(tiny, PROMPTS, [Composable()])
    for wrong in ("a", ["a", "b"], [["a"], 3], [["a"], [3]]):
        with pytest.raises(ValueError, match=r"Composable\(prompts=.*: give a list of texts for every image"):
            begun(tiny, PROMPTS, [Composable(prompts=wrong)])


def test_concepts_of_layouts_are_phrases_at_the_place_of_the_whole(tiny):
    box = (0, 0, 1, 1)
    snow = layout("an orange star and a red car in the snow", orange_star=box, red_car=box)
    assert concepts(snow) == ["an orange star in the snow", "a red car in the snow"]
    assert concepts(layout("a red car and the ball", red_car=box, the_ball=box)) == ["a red car", "the ball"]
    assert concepts(layout("red car!! of of", red_car=box)) == ["a red car"], "also where the grammar reads nothing"
    given = [["a red car", "a blue fish"], ["a blue ball"]]
    runs = [
        sample(tiny, PROMPTS, [Composable(scale=2.0, **asked)], steps=2)
        for asked in ({"layouts": LAYOUTS}, {"prompts": given})
    ]
    assert torch.equal(runs[0].latents, runs[1].latents)
