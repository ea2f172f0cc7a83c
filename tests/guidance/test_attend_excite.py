"""Attend-and-Excite: as diffusers' own pipeline, maxima, rates and goals; several text encoders."""

import copy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionAttendAndExcitePipeline
from diffusers.pipelines.deprecated.stable_diffusion_attend_and_excite import (
    pipeline_stable_diffusion_attend_and_excite as theirs,
)
from single_steps import LAYOUTS, PROMPTS, begun, by_hand, moved, noise, randoms

from helpers.backbones.attention import Layers
from helpers.backbones.tokens import Tokens
from helpers.guidance.attend_excite import KERNEL, AttendExcite, Goals, neglect, rate, sharpened, subject_maps
from helpers.guidance.cfg import CFG
from helpers.sampling.loop import sample


def theirs_of(backbone):
    names = ("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor")
    parts = {name: backbone.pipe.components[name] for name in names}
    scheduler = copy.deepcopy(backbone.pipe.scheduler)
    pipe = StableDiffusionAttendAndExcitePipeline(**parts, scheduler=scheduler, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.filterwarnings("ignore:.*torch.meshgrid")
@pytest.mark.parametrize(
    ("images", "steps", "scale", "goals"), [([0, 1], 6, 20, {}), ([0], 2, 1, {0: 0.99})], ids=["plain", "refined"]
)
def test_attend_and_excite_equals_diffusers(mini, images, steps, scale, goals):
    """Also with refinement, to a goal out of reach; 20 moves as large as the paper's would amplify the rounding."""
    prompts, tokens = [PROMPTS[k] for k in images], [[[3, 8], [3]][k] for k in images]
    latents = noise(mini, images)
    pipe = theirs_of(mini)
    options = {"max_iter_to_alter": steps // 2, "thresholds": goals, "attn_res": (16, 16), "scale_factor": scale}
    expected = pipe(prompts, tokens, latents=latents, num_inference_steps=steps, output_type="pt", **options).images
    excite = AttendExcite(layouts=[LAYOUTS[k] for k in images], scale=scale, refined=goals)
    run = sample(mini, prompts, [CFG(), excite], steps=steps)
    torch.testing.assert_close(run.images, expected, atol=1e-3, rtol=0)
    assert (run.images - sample(mini, prompts, [CFG()], steps=steps).images).abs().max() > 0.02
    assert run.cost.backwards == len(images) * (steps // 2 + 20 * len(goals))


@pytest.mark.filterwarnings("ignore:.*torch.meshgrid")
def test_kernel_and_maxima_equal_diffusers():
    kernel = torch.outer(KERNEL, KERNEL) / KERNEL.sum() ** 2
    torch.testing.assert_close(kernel, theirs.GaussianSmoothing().weight[0, 0])
    torch.testing.assert_close(KERNEL / KERNEL.sum(), torch.tensor([0.212, 0.576, 0.212]), atol=1e-3, rtol=0)
    seen, regions = by_hand((5 * randoms(1, 3, 6, 6, 9, dtype=torch.float32)).softmax(-1), torch.ones(1, 4, 6, 6))
    found = subject_maps(seen, regions.nouns, Layers(), tokens_of(9)).amax((2, 3))[0]
    mean = next(iter(seen.maps.values())).mean(1).view(6, 6, 9)
    maxima = StableDiffusionAttendAndExcitePipeline._compute_max_attention_per_index(mean.clone(), [1, 2, 3, 4])
    torch.testing.assert_close(found, torch.stack(maxima))


def tokens_of(*lengths):
    """Of encoders that read so many keys."""
    return Tokens([], lengths)


def test_a_word_competes_with_those_of_its_own_encoder_only():
    mean = randoms(2, 6, 5 + 4)
    found = sharpened(mean, tokens_of(5, 4))
    torch.testing.assert_close(found[..., 1:4], (100 * mean[..., 1:4]).softmax(-1))
    torch.testing.assert_close(found[..., 5:], (100 * mean[..., 5:]).softmax(-1))
    assert (found[..., [0, 4]] == 0).all(), "start and last token of the first"
    clip = randoms(1, 2, 4, 4, 5, dtype=torch.float32)
    seen, regions = by_hand(torch.cat([clip, clip], -1), torch.ones(1, 1, 4, 4))
    alone, _ = by_hand(clip, torch.ones(1, 1, 4, 4))
    both = regions.nouns | regions.nouns.roll(5, -1)
    maps = subject_maps(seen, both, Layers(), tokens_of(5, 5))
    assert maps.amax() > 0.55, "a word that both encoders read can still win"
    assert (maps <= subject_maps(alone, regions.nouns[..., :5], Layers(), tokens_of(5)) + 1e-6).all()


def test_goals_of_plain_data():
    goals = Goals(((0.0, 0.05), (0.2, 0.5)))
    for data in ({0: 0.05, 0.2: 0.5}, [[0.0, 0.05], [0.2, 0.5]]):
        assert AttendExcite(layouts=LAYOUTS, refined=data).refined == goals
    assert goals.settings() == [[0.0, 0.05], [0.2, 0.5]]
    for wrong in ({0.2: 1.5}, {0.2: float("nan")}, {"a": 0.5}, [0.2], 3):
        with pytest.raises(ValueError, match=r"AttendExcite\(refined="):
            AttendExcite(layouts=LAYOUTS, refined=wrong)


def test_the_most_neglected_subject_counts_and_padding_does_not():
    maps = torch.zeros(2, 3, 4, 4)
    maps[0, :, 1, 1] = torch.tensor([0.9, 0.4, 0.7])
    maps[1, :, 2, 0] = torch.tensor([0.8, 0.0, 1.5])
    valid = torch.tensor([[True, True, True], [True, False, True]])
    torch.testing.assert_close(neglect(maps, valid), torch.tensor([0.6, 0.2]))
    random, all_valid = randoms(2, 3, 4, 4).requires_grad_(), torch.ones(2, 3, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda maps: neglect(maps, all_valid), random)


def test_rates_and_refined_steps_are_the_papers(tiny):
    method = AttendExcite.paper(layouts=LAYOUTS)
    steps = [begun(tiny, PROMPTS, i=i, steps=50) for i in range(50)]
    np.testing.assert_allclose([rate(ctx, 20.0) for ctx in steps], 20 * np.linspace(1, 0.5, 50) ** 0.5, rtol=1e-6)
    assert {ctx.i: method.refined.at(ctx) for ctx in steps if method.refined.at(ctx)} == {0: 0.05, 10: 0.5, 20: 0.8}
    assert [ctx.i for ctx in steps if ctx in method.window] == list(range(25))


def test_refinement_goes_on_until_the_goal_is_reached(mini):
    method = AttendExcite.paper(layouts=LAYOUTS, scale=2.0, refined={0.3: 0.25}, most=20)
    ctx = begun(mini, PROMPTS, [method])
    x_t = moved(ctx, method)
    assert (ctx.curves["attendexcite.refined"] > 0.75).any(), "there was something to do"
    assert 4 < ctx.cost.forwards < 2 * 21, "fewer than if no image had reached it"
    assert ((x_t - ctx.x_t).abs().amax((1, 2, 3)) > 0).all() and x_t.isfinite().all()


def test_the_nearest_resolution_is_read_and_one_only(tiny):
    """A U-Net of 8 x 8 cells has no 16 x 16."""
    excite = AttendExcite(layouts=LAYOUTS)
    assert begun(tiny, PROMPTS, [excite]).job.states[excite].layers.cells == (8,)
    two = AttendExcite(layouts=LAYOUTS, reads=[8, 16])
    with pytest.raises(ValueError, match=r"AttendExcite\(reads=.*must name one resolution"):
        begun(tiny, PROMPTS, [two])
