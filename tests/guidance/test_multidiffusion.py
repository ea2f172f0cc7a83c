"""MultiDiffusion: equal to CFG and to diffusers with one view, fused steps, bootstrapping, prompts of layouts."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPanoramaPipeline
from single_steps import LAYOUTS, PROMPTS, begun, layout, noise

from helpers.guidance.cfg import CFG
from helpers.guidance.multidiffusion import MultiDiffusion
from helpers.sampling.loop import predict, sample


def test_one_region_everywhere_with_the_prompt_equals_cfg_and_panorama(mini):
    whole = [layout(prompt, **{phrase: (0, 0, 1, 1)}) for prompt, phrase in zip(PROMPTS, ("red_car", "blue_ball"))]
    texts = [[prompt, "the grass"] for prompt in PROMPTS]
    run = sample(mini, PROMPTS, [MultiDiffusion(layouts=whole, prompts=texts, cfg_scale=5, bootstrap=0)], steps=4)
    torch.testing.assert_close(run.images, sample(mini, PROMPTS, [CFG(5)], steps=4).images, atol=1e-4, rtol=0)
    names = ("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor")
    parts = {name: mini.pipe.components[name] for name in names}
    scheduler = copy.deepcopy(mini.pipe.scheduler)
    pipe = StableDiffusionPanoramaPipeline(**parts, scheduler=scheduler, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)  # a picture of one view
    for k, prompt in enumerate(PROMPTS):
        latents = noise(mini, [k])
        options = {"height": 64, "width": 64, "guidance_scale": 5, "num_inference_steps": 4, "output_type": "pt"}
        torch.testing.assert_close(run.images[k], pipe(prompt, latents=latents, **options).images[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("bootstrap", [0.0, 1.0])
@torch.no_grad()
def test_fused_predictions_are_fused_steps(backbone, bootstrap):
    """Affine in x_t and eps: fusing every region's x_{t-1} of DDIM is the same, where regions overlap too."""
    over = [layout(PROMPTS[0], red_car=(0, 0, 0.6, 0.7), blue_fish=(0.4, 0.3, 1, 0.8)), LAYOUTS[1]]
    texts = [["a red car", "a blue fish", "grass"], ["a blue ball", "grass"]]
    multi = MultiDiffusion(layouts=over, prompts=texts, cfg_scale=5, bootstrap=bootstrap)
    ctx = begun(backbone, PROMPTS, [multi])
    branches = {branch.name: branch for branch in multi.branches(ctx, ctx.job.states[multi])}
    predict(ctx, [multi])
    solver = ctx.job.solver
    found = solver.step(ctx.pred, ctx.i, ctx.x_t, [])
    masks = [over[0].masks(16, 16) >= 0.5, over[1].masks(16, 16).expand(2, -1, -1) >= 0.5]
    masks[1] = masks[1] & torch.tensor([True, False])[:, None, None]  # one region only
    masks = torch.stack([torch.cat([own, ~own.any(0, keepdim=True)]) for own in masks])[:, :, None].float()
    total = 0
    for n in range(3):
        view = ctx.x_t if branches[f"region {n}"].x_t is None else branches[f"region {n}"].x_t
        cond, uncond = ctx.preds[f"region {n}"], ctx.preds.get(f"no region {n}", ctx.preds["uncond"])
        total = total + masks[:, n] * solver.step(uncond + 5 * (cond - uncond), ctx.i, view, [])
        assert torch.equal(view * masks[:, n], ctx.x_t * masks[:, n])
        assert torch.equal(view, ctx.x_t) == (bootstrap == 0 or n == 2), (
            "elsewhere something else, but not for the rest"
        )
    torch.testing.assert_close(found, total / masks.sum(1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_bootstrapping_shows_a_region_before_one_of_twenty_plain_colours(tiny):
    """Under the noise of x_T itself, another colour at every step."""
    small, shown = [layout(PROMPTS[0], red_car=(0, 0, 0.5, 0.5), blue_fish=(0.5, 0, 1, 1)), LAYOUTS[1]], []

    def encode(pictures):
        shown.extend(pictures)
        return torch.arange(1.0, len(pictures) + 1).view(-1, 1, 1, 1).expand(-1, *tiny.latent_shape)

    backbone = copy.copy(tiny)
    backbone.encode = encode
    options = {"layouts": small, "prompts": [["a", "b", "c"], ["a", "b"]]}

    def view(bootstrap=1.0, **step):
        multi = MultiDiffusion(bootstrap=bootstrap, **options)
        ctx = begun(backbone, PROMPTS, [multi], **step)
        branches = multi.branches(ctx, ctx.job.states[multi])
        return next(branch.x_t for branch in branches if branch.name == "region 0")

    def colour(i):
        """Which one it was, of the part outside the mask."""
        ctx = begun(backbone, PROMPTS, i=i)
        clean = (view(i=i)[0, :, 8:] - ctx.level.sigma * noise(tiny, [0])[0, :, 8:]) / ctx.level.alpha
        torch.testing.assert_close(clean, clean.mean().expand_as(clean), atol=1e-3, rtol=0)
        return round(clean.mean().item())

    picked = [colour(i) for i in range(10)]
    colours = torch.stack(shown[:20]).flatten(2)
    assert torch.equal(colours.amax(2), colours.amin(2)) and len(colours[..., 0].unique(dim=0)) == 20
    assert len(set(picked)) > 4 and set(picked) <= set(range(1, 21))
    torch.testing.assert_close(view(index=[1])[0], view()[1])
    assert view(0.4, i=3) is not None and view(0.4, i=4) is None, "over after 40 % of the steps"


def test_multidiffusion_wants_a_prompt_per_region_and_one_for_the_rest(tiny):
    with pytest.raises(
        ValueError, match="image 0 has 2 prompts for 2 regions: give one per region and one for the rest"
    ):
        begun(tiny, PROMPTS, [MultiDiffusion(layouts=LAYOUTS, prompts=[["a", "b"], ["a", "b"]])])
    with pytest.raises(ValueError, match="prompts for 1 of 2 images: give each its list"):
        begun(tiny, PROMPTS, [MultiDiffusion(layouts=LAYOUTS, prompts=[["a", "b", "c"]])])


def test_prompts_of_a_layout_are_its_regions_and_the_whole_prompt(tiny):
    given = [["a red car", "a blue fish", PROMPTS[0]], ["a blue ball", PROMPTS[1]]]
    runs = [sample(tiny, PROMPTS, [MultiDiffusion(layouts=LAYOUTS, prompts=own)], steps=2) for own in (None, given)]
    assert torch.equal(runs[0].latents, runs[1].latents)


def test_a_region_smaller_than_a_cell_keeps_a_place(tiny):
    small = layout(PROMPTS[1], blue_ball=(0.3, 0.3, 0.34, 0.34))
    multi = MultiDiffusion(layouts=small)
    masks = begun(tiny, PROMPTS[1:], [multi]).job.states[multi].masks[0, :, 0]
    assert masks[0].sum() == 1 and torch.equal(masks[1], 1 - masks[0])
