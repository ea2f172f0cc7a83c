"""Methods that read or edit attention or combine predictions, together: errors, batches, zero strength, descent."""

import json
from dataclasses import replace

import pytest
import torch
from single_steps import LAYOUTS, PROMPTS, begun, layout, moved

from helpers.backbones.load import wrap
from helpers.guidance.attend_excite import AttendExcite, Goals
from helpers.guidance.boxdiff import BoxDiff
from helpers.guidance.cfg import CFG
from helpers.guidance.composable import Composable
from helpers.guidance.densediffusion import DenseDiffusion
from helpers.guidance.directed import Directed
from helpers.guidance.ilgd import ILGD
from helpers.guidance.layout_guidance import LayoutGuidance
from helpers.guidance.multidiffusion import MultiDiffusion
from helpers.sampling.attention_maps import AttentionMaps
from helpers.sampling.hooks import Recurrence, Window
from helpers.sampling.loop import sample

METHODS = [ILGD, AttendExcite, BoxDiff, LayoutGuidance, DenseDiffusion, MultiDiffusion, Composable, Directed]
DESCENDING = [AttendExcite, BoxDiff, LayoutGuidance]


def guidance(method):
    return [method] if method.decides else [CFG(5), method]


@pytest.mark.parametrize("kind", [*METHODS, AttentionMaps])
def test_layouts_must_fit_the_prompts(tiny, kind):
    with pytest.raises(ValueError, match="has 1 layouts for 2 prompts: give one for all, or one per image"):
        begun(tiny, PROMPTS, [kind(layouts=LAYOUTS[:1])])
    with pytest.raises(
        ValueError, match="image 0 is drawn from .* but its layout is for .* in the order of the prompts"
    ):
        begun(tiny, PROMPTS, [kind(layouts=LAYOUTS[::-1])])


@pytest.mark.parametrize("kind", METHODS)
def test_settings_are_json_and_make_the_method_again(kind):
    for method in (kind(layouts=LAYOUTS), kind.paper(layouts=LAYOUTS)):
        settings = json.loads(json.dumps(method.settings()))
        assert kind(layouts=LAYOUTS, **settings).settings() == settings and settings


@pytest.mark.parametrize(
    "idle",
    [
        ILGD(layouts=LAYOUTS, injection=0.0, weight=0.0),
        AttendExcite(layouts=LAYOUTS, scale=0.0),
        BoxDiff(layouts=LAYOUTS, scale=0.0),
        LayoutGuidance(layouts=LAYOUTS, scale=0.0),
        DenseDiffusion(layouts=LAYOUTS, scale=0.0),
        Directed(layouts=LAYOUTS, scale=0.0, outside=1.0),
    ],
    ids=lambda method: method.name,
)
def test_zero_strength_is_bit_equal_to_plain_sampling_and_costs_nothing(mini, idle):
    run = sample(mini, PROMPTS, [CFG(5), idle], steps=2)
    plain = sample(mini, PROMPTS, [CFG(5)], steps=2)
    assert torch.equal(run.latents, plain.latents)
    assert run.cost.backwards == 0 and run.cost.forwards == plain.cost.forwards


@pytest.mark.parametrize(
    "method",
    [
        ILGD(layouts=LAYOUTS, injection_window=Window(), window=Window()),
        AttendExcite(layouts=LAYOUTS, scale=5.0, most=2),
        BoxDiff(layouts=LAYOUTS, scale=5.0),
        LayoutGuidance(layouts=LAYOUTS, scale=30.0, most=2),
        DenseDiffusion(layouts=LAYOUTS),
        DenseDiffusion.paper(layouts=LAYOUTS),
        MultiDiffusion(layouts=LAYOUTS),
        Composable(layouts=LAYOUTS),
        Directed(layouts=LAYOUTS),
    ],
    ids=lambda method: method.name,
)
def test_images_do_not_depend_on_the_batch_and_are_changed(mini, method):
    whole, apart = (sample(mini, PROMPTS, guidance(method), steps=2, batch=size) for size in (2, 1))
    torch.testing.assert_close(apart.images, whole.images, atol=1e-3, rtol=0)
    assert (apart.cost.forwards, apart.cost.backwards) == (whole.cost.forwards, whole.cost.backwards)
    plain = sample(mini, PROMPTS, [CFG(5)], steps=2).images
    assert ((whole.images - plain).abs().amax((1, 2, 3)) > 0.01).all()


@pytest.mark.parametrize("kind", METHODS)
def test_a_region_smaller_than_a_cell_is_not_dropped(mini, kind):
    """Nor does it make anything that is not finite."""
    small = layout("a red car on the grass", red_car=(0.37, 0.37, 0.63, 0.63))
    run = sample(mini, small.prompt, guidance(kind(layouts=small)), steps=2, strict=True)
    assert run.latents.isfinite().all()
    assert not torch.equal(run.latents, sample(mini, small.prompt, [CFG(5)], steps=2).latents)


@pytest.mark.parametrize("kind", METHODS)
def test_half_precision_guides_like_float32(make_pipeline, kind):
    backbone = wrap(make_pipeline().to(torch.bfloat16))
    run = sample(backbone, PROMPTS, guidance(kind(layouts=LAYOUTS)), steps=2, strict=True)
    assert run.latents.isfinite().all() and not run.warnings


@pytest.mark.parametrize("kind", [ILGD, LayoutGuidance])
def test_gradient_checkpointing_gives_the_same_images(make_pipeline, kind):
    images = []
    for checkpointing in (False, True):
        backbone = wrap(make_pipeline(), checkpointing)
        images.append(sample(backbone, PROMPTS, [CFG(5), kind(layouts=LAYOUTS, window=Window())], steps=3).images)
    torch.testing.assert_close(*images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", DESCENDING)
def test_a_descent_leaves_the_loops_own_evaluation_alone(mini, kind):
    """Which then runs the fused kernels, without a graph."""
    recorded = []

    class Look(CFG):
        def combine(self, pred, ctx, state):
            recorded.append((dict(ctx.attention.maps), pred.requires_grad))
            return super().combine(pred, ctx, state)

    sample(mini, PROMPTS, [Look(), kind(layouts=LAYOUTS)], steps=2)
    assert recorded == [({}, False)] * 2


@pytest.mark.parametrize(
    "method",
    [
        AttendExcite(layouts=LAYOUTS, scale=1.0, refined=Goals()),
        BoxDiff(layouts=LAYOUTS, scale=1.0),
        LayoutGuidance(layouts=LAYOUTS, scale=3.0, most=1),
    ],
    ids=lambda method: method.name,
)
def test_before_a_step_the_loss_is_lowered(mini, method):
    ctx = begun(mini, PROMPTS, [method])
    x_t = moved(ctx, method)
    after = begun(mini, PROMPTS, [method], x_t=x_t)
    moved(after, method)
    assert (after.curves[method.name] < ctx.curves[method.name]).all()
    assert (ctx.cost.forwards, ctx.cost.backwards) == (2, 2)
    assert not x_t.requires_grad and (x_t - ctx.x_t).abs().max() > 1e-4


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("kind", [ILGD, *DESCENDING])
def test_recurrence_repeats_the_pull_and_nothing_else(mini, kind, noise):
    options = {"most": 1} if kind is LayoutGuidance else {"refined": Goals()} if kind is not ILGD else {}
    once = kind(layouts=LAYOUTS, window=(0, 0.4), **options)
    method = replace(once, recurrence=Recurrence(3, Window(0.0, 0.4), noise))
    runs = [sample(mini, PROMPTS, [CFG(5), one], steps=4) for one in (once, method)]
    assert [run.cost.backwards for run in runs] == [2 * 2, 2 * 2 * 3], "both images, two steps, three times"
    assert not torch.equal(runs[0].latents, runs[1].latents)


@pytest.mark.parametrize("kind", DESCENDING)
def test_what_is_read_decides_the_picture(mini, kind):
    fine, usual = (kind(layouts=LAYOUTS, reads=cells) for cells in ([16], [8]))
    runs = [sample(mini, PROMPTS, [CFG(5), method], steps=2) for method in (fine, usual)]
    assert not torch.equal(runs[0].latents, runs[1].latents)


def test_cells_of_the_loss_decide_the_picture(mini):
    runs = [sample(mini, PROMPTS, [CFG(5), ILGD(layouts=LAYOUTS, cells=cells)], steps=2) for cells in (16, 8)]
    assert not torch.equal(runs[0].latents, runs[1].latents)
