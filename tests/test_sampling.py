"""The loop: equal to diffusers without guidance, exact at strength zero, the same image whatever the batch, counted."""

import copy

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler

from helpers.backbones import Backbone
from helpers.conditions import Prompt
from helpers.guidance import CFG, Guidance, Matched, Polyak, Raw, Recurrence, Unit, Window
from helpers.guidance.gradient import gradient_update
from helpers.guidance.strength import rms
from helpers.sampling import initial_noise, sample

PROMPTS = ["a red car", "a blue fish on the grass", "a red ball left of a blue car"]
STEPS = 6


class Bright(Guidance):
    """Pulls the picture towards white; notes what it was called with."""

    def __init__(self, weight=300.0, window=Window(0, 0.5), strength=Raw(), again=Recurrence(), break_at=None):  # noqa: B008
        self.weight, self.window, self.strength, self.recurrence = weight, window, strength, again
        self.break_at, self.calls = break_at, []

    def energy(self, ctx):
        self.calls.append(ctx)
        loss = (1 - ctx.image).square().flatten(1).mean(1)
        if ctx.i == self.break_at:
            loss = loss * torch.tensor([float("nan") if k == 1 else 1.0 for k in ctx.index])
        return loss, {"twice": 2 * loss.detach()}


def draw(backbone, guidance, **options):
    return sample(backbone, PROMPTS, guidance, **{"steps": STEPS, "seeds": [5, 6, 7]} | options)


def diffusers_images(backbone, cfg_scale, **options):
    latents = initial_noise(backbone, [torch.Generator().manual_seed(s) for s in (5, 6, 7)])
    images = backbone.pipe(
        PROMPTS, num_inference_steps=STEPS, guidance_scale=cfg_scale, latents=latents, output_type="pt", **options
    )
    return images.images


# --- without guidance ------------------------------------------------------------------------------------------------


def test_equals_diffusers(backbone):
    run = draw(backbone, [CFG(5)])
    torch.testing.assert_close(run.images, diffusers_images(backbone, 5), atol=1e-4, rtol=0)
    assert run.images.std() > 0.01


def test_without_cfg_it_follows_the_prompt_alone(tiny):
    torch.testing.assert_close(draw(tiny, []).images, diffusers_images(tiny, 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(draw(tiny, [CFG(1)]).images, draw(tiny, []).images, atol=1e-4, rtol=0)


def test_negative_prompt_equals_diffusers(tiny):
    prompts = [Prompt(text=p, negative="a blue ball") for p in PROMPTS]
    run = sample(tiny, prompts, [CFG(5)], steps=STEPS, seeds=[5, 6, 7])
    theirs = diffusers_images(tiny, 5, negative_prompt=["a blue ball"] * 3)
    torch.testing.assert_close(run.images, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", [DPMSolverMultistepScheduler, PNDMScheduler, DDPMScheduler])
def test_other_solvers_equal_diffusers_too(make_pipeline, solver):
    pipe = make_pipeline()
    pipe.scheduler = solver.from_config(pipe.scheduler.config)
    backbone = Backbone(pipe)
    run = draw(backbone, [CFG(5)], batch=2)
    own_noise = [torch.Generator().manual_seed(s) for s in (5, 6, 7)]
    theirs = backbone.pipe(PROMPTS, num_inference_steps=STEPS, guidance_scale=5, generator=own_noise, output_type="pt")
    torch.testing.assert_close(run.images, theirs.images, atol=1e-4, rtol=0)


def test_effective_cfg_is_the_scale(tiny):
    torch.testing.assert_close(draw(tiny, [CFG(5)]).eff_cfg, torch.full((3,), 5.0), atol=1e-3, rtol=0)
    assert not torch.allclose(draw(tiny, [CFG(5), Bright()]).eff_cfg, torch.tensor(5.0), atol=1e-3)


# --- batches and seeds -----------------------------------------------------------------------------------------------


def test_noise_is_bit_equal_whatever_the_batch(tiny):
    def noise(seeds):
        return initial_noise(tiny, [torch.Generator().manual_seed(s) for s in seeds])

    assert torch.equal(noise([5, 6, 7])[2], noise([7])[0])


def test_images_do_not_depend_on_the_batch(backbone):
    methods = [CFG(5), Bright(again=Recurrence(2))]
    whole = draw(backbone, methods, batch=3)
    for size in (1, 2):
        part = draw(backbone, methods, batch=size)
        torch.testing.assert_close(part.images, whole.images, atol=1e-4, rtol=0)
        torch.testing.assert_close(part.curves["bright"], whole.curves["bright"], atol=1e-4, rtol=0, equal_nan=True)
    assert (whole.images - draw(backbone, [CFG(5)]).images).abs().max() > 0.01


def test_one_at_a_time_an_image_is_bit_equal_whatever_else_is_drawn(backbone):
    methods = [CFG(5), Bright(strength=Unit(0.5), again=Recurrence(3))]
    whole = draw(backbone, methods, batch=1)
    alone = sample(backbone, PROMPTS[2], methods, steps=STEPS, seeds=[whole.seeds[2]])
    assert torch.equal(whole.images[2], alone.images[0])


def test_the_same_twice_and_no_global_seed(tiny):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = draw(tiny, [CFG(5), Bright()]), draw(tiny, [CFG(5), Bright()])
    assert torch.equal(one.images, two.images)
    assert torch.equal(torch.get_rng_state(), before)


# --- guidance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [{"weight": 0.0}, *({"strength": rule(0)} for rule in (Raw, Unit, Polyak, Matched))])
def test_zero_strength_is_bit_equal_with_hooks_running(backbone, off):
    idle = draw(backbone, [CFG(5), Bright(**off)])
    assert idle.cost.backwards == 9
    assert torch.equal(idle.images, draw(backbone, [CFG(5)]).images)


def test_guidance_lowers_its_loss(backbone):
    def loss(run):
        return (1 - run.images).square().mean()

    plain = loss(draw(backbone, [CFG(5)]))
    for rule in (Raw(10), Unit(0.1), Polyak(0.1), Matched(0.5)):
        assert loss(draw(backbone, [CFG(5), Bright(strength=rule, window=Window(0, 1))])) < plain - 2e-3


def test_one_step_against_the_gradient_lowers_the_loss(backbone, make_context):
    """Through the U-Net, CFG, x0_hat and the decoder; and it is the gradient: checked by finite differences."""
    double = Backbone(copy.deepcopy(backbone.pipe).to(torch.float64))
    ctx, bright = make_context(double, PROMPTS), Bright()
    loss, _ = bright.energy(ctx)
    (grad,) = torch.autograd.grad(loss.sum(), ctx.x_t)
    direction = torch.randn(grad.shape, generator=torch.Generator().manual_seed(1), dtype=grad.dtype)
    step = 0.05 * grad / rms(grad)

    @torch.no_grad()
    def at(change):
        return bright.energy(make_context(double, PROMPTS, x_t=ctx.x_t + change))[0]

    slope = (at(1e-4 * direction) - at(-1e-4 * direction)) / 2e-4
    torch.testing.assert_close(slope, (grad * direction).flatten(1).sum(1), rtol=1e-4, atol=1e-9)
    assert (at(-step) < loss).all() and (at(step) > loss).all()


def test_window_counts_steps(tiny):
    bright = Bright(window=Window(0, 0.7))
    draw(tiny, [bright], steps=10)
    assert [ctx.i for ctx in bright.calls] == list(range(7))
    late = Bright(window=Window(0.5, 1.0))
    draw(tiny, [late], steps=5)
    assert [ctx.i for ctx in late.calls] == [3, 4]


def test_outside_the_window_equals_absent_and_needs_no_gradient(tiny):
    asleep = Bright(window=Window(0, 0))
    run = draw(tiny, [CFG(5), asleep])
    assert not asleep.calls and run.cost.backwards == 0
    assert torch.equal(run.images, draw(tiny, [CFG(5)]).images)

    class Watch(CFG):
        def combine(self, pred, ctx):
            graphs.append(pred.requires_grad)
            return super().combine(pred, ctx)

    graphs = []
    draw(tiny, [Watch(5), Bright(window=Window(0, 0.5))])
    assert graphs == [True] * 3 + [False] * 3


def test_one_forward_one_decode_one_backward_per_guided_step(tiny):
    forwards, decodes, backwards = [], [], []
    hooks = [
        tiny.pipe.unet.register_forward_hook(lambda *_: forwards.append(1)),
        tiny.pipe.vae.decoder.register_forward_hook(lambda *_: decodes.append(1)),
        tiny.pipe.unet.conv_in.register_full_backward_hook(lambda *_: backwards.append(1)),
    ]
    run = draw(tiny, [CFG(5), Bright(), Bright(weight=100.0)])
    for hook in hooks:
        hook.remove()
    assert (len(forwards), len(decodes), len(backwards)) == (STEPS, 3 + 1, 3)
    cost = run.cost
    assert (cost.images, cost.forwards, cost.backwards, cost.decodes) == (3, 3 * 2 * STEPS, 3 * 3, 3 * 3 + 3)
    assert cost.nfe == 2 * STEPS and cost.seconds > 0 and cost.peak_mb > 50


def test_energies_of_one_rule_add_and_rules_stay_apart(tiny):
    together = draw(tiny, [CFG(5), Bright(weight=400.0)])
    split = draw(tiny, [CFG(5), Bright(), Bright(weight=100.0)])
    torch.testing.assert_close(split.images, together.images, atol=1e-4, rtol=0)
    apart = draw(tiny, [CFG(5), Bright(), Bright(weight=100.0, strength=Raw(1.0, clip=1e9))])
    torch.testing.assert_close(apart.images, together.images, atol=1e-4, rtol=0)
    assert apart.cost.backwards == 2 * together.cost.backwards


def test_unconditional_branch_is_evaluated_once_for_two_methods(tiny):
    assert draw(tiny, [CFG(5), CFG(3)]).cost.nfe == 2 * STEPS


def test_curves(tiny):
    run = draw(tiny, [CFG(5), Bright()])
    assert run.curves["bright"].shape == (3, STEPS)
    assert run.curves["bright"].isnan().tolist() == 3 * [[False] * 3 + [True] * 3]
    torch.testing.assert_close(run.curves["bright.twice"], 2 * run.curves["bright"], equal_nan=True)
    assert (run.curves["update_rms"][:, :3] > 0).all() and not run.curves["eff_cfg"].isnan().any()


# --- where it starts, and after each step ----------------------------------------------------------------------------


class Halfway(Guidance):
    """Starts from a constant and pins the left half of every x_{t-1} to another."""

    def __init__(self, again=Recurrence()):  # noqa: B008
        self.recurrence, self.seen = again, []

    def start(self, x_t, index):
        self.seen.append(("start", list(index)))
        return torch.full_like(x_t, 0.5)

    def after(self, x_prev, ctx):
        self.seen.append(("after", ctx.i))
        return torch.cat([torch.full_like(x_prev[..., :8], float(ctx.i)), x_prev[..., 8:]], -1)


def test_start_and_after_decide_the_latents(tiny):
    halfway, bright = Halfway(), Bright(weight=0.0)
    run = draw(tiny, [CFG(5), halfway, bright], batch=2)
    assert halfway.seen == [
        *[("start", [0, 1]), *[("after", i) for i in range(STEPS)]],
        *[("start", [2]), *[("after", i) for i in range(STEPS)]],
    ]
    assert (bright.calls[0].x_t == 0.5).all()
    assert (bright.calls[1].x_t[..., :8] == 0).all() and (bright.calls[1].x_t[..., 8:] != 0.5).any()
    assert (run.latents[..., :8] == STEPS - 1).all()


def test_after_comes_before_the_noise_of_a_recurrence(tiny):
    halfway = Halfway(again=Recurrence(2, Window(0, 0.1)))
    draw(tiny, [halfway])
    assert [i for name, i in halfway.seen if name == "after"] == [0, 0, 1, 2, 3, 4, 5]


def test_hooks_that_change_nothing_are_bit_equal(tiny):
    class Idle(Guidance):
        pass

    assert torch.equal(draw(tiny, [CFG(5), Idle()]).images, draw(tiny, [CFG(5)]).images)


# --- strength --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_strength_rules(tiny, make_context):
    ctx = make_context(tiny, PROMPTS)
    grad = torch.randn(3, *tiny.latent_shape) * torch.tensor([1e-3, 1.0, 0.0])[:, None, None, None]
    loss = torch.ones(3)
    torch.testing.assert_close(Raw(2).update(loss, grad, ctx), 2 * ctx.sigma * grad)
    unit = rms(Unit(0.3).update(loss, grad, ctx)).flatten()
    torch.testing.assert_close(unit, torch.tensor([0.3, 0.3, 0.0]) * ctx.sigma)
    cfg = rms(ctx.eps - tiny.to_eps(ctx.preds["uncond"], ctx.x_t, ctx.t)).flatten()
    matched = rms(Matched(0.2).update(loss, grad, ctx)).flatten()
    torch.testing.assert_close(matched, 0.2 * cfg * torch.tensor([1.0, 1.0, 0.0]))
    clipped = rms(Raw(2, clip=0.5).update(loss, grad, ctx)).flatten()
    torch.testing.assert_close(clipped, rms(2 * ctx.sigma * grad).flatten().clamp(max=0.5))


@torch.no_grad()
def test_polyak_goes_to_the_zero_of_a_linear_loss_and_never_further_than_unit(backbone, make_context):
    """Through the solver itself: the loss <g, x> - b at x_{t-1} is 0 where the step is short enough to get there."""
    ctx = make_context(backbone, PROMPTS)
    ctx.job.scheduler.set_timesteps(10)
    grad = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)) * 0.01
    loss = torch.tensor([0.5, 0.02, 1e6])

    def at_next(pred):
        x_next = ctx.job.scheduler.step(pred, ctx.t, ctx.x_t, return_dict=False)[0]
        return (grad * x_next).flatten(1).sum(1)

    update = Polyak(1.0).update(loss, grad, ctx)
    fallen = at_next(ctx.pred) - at_next(backbone.shift(ctx.pred, update, ctx.t))
    torch.testing.assert_close(fallen[:2], loss[:2], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(update[2], Unit(1.0).update(loss, grad, ctx)[2])
    assert (rms(update) <= rms(Unit(1.0).update(loss, grad, ctx)) * 1.001).all()
    assert not Polyak(1.0).update(loss, torch.zeros_like(grad), ctx).any()


def test_losses_are_summed_over_the_batch(tiny, make_context):
    whole, alone = make_context(tiny, PROMPTS), make_context(tiny, PROMPTS, index=[1])
    bright = Bright(weight=7.0)
    several = gradient_update(whole, {bright: bright.energy(whole)})
    single = gradient_update(alone, {bright: bright.energy(alone)})
    torch.testing.assert_close(several.eps[1], single.eps[0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(several.grad_rms[1], single.grad_rms[0])


def test_matched_without_cfg_is_refused(tiny):
    with pytest.raises(ValueError, match=r"put CFG\(...\) into the guidance list"):
        draw(tiny, [Bright(strength=Matched())])


@pytest.mark.parametrize("rule", [Raw(), Polyak(0.1)])
def test_non_finite_gradient_is_skipped_named_and_kept_to_its_image(tiny, rule):
    whole = draw(tiny, [CFG(5), Bright(strength=rule)])
    with pytest.warns(UserWarning, match=r"image 1 \(seed 6\), step 2 of 6: the gradient of bright .* not finite"):
        broken = draw(tiny, [CFG(5), Bright(strength=rule, break_at=2)])
    assert len(broken.warnings) == 1 and "loss nan" in broken.warnings[0] and "skipped" in broken.warnings[0]
    assert torch.equal(broken.images[[0, 2]], whole.images[[0, 2]])
    assert broken.images.isfinite().all() and not torch.equal(broken.images[1], whole.images[1])
    with pytest.raises(FloatingPointError, match="image 1 .* lower the weight, clip the strength"):
        draw(tiny, [CFG(5), Bright(strength=rule, break_at=2)], strict=True)


# --- recurrence ------------------------------------------------------------------------------------------------------


def test_recurrence_does_a_step_again_from_noised_x(tiny):
    bright = Bright(again=Recurrence(3), weight=0.0)
    run = draw(tiny, [bright])
    assert [ctx.i for ctx in bright.calls] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert run.cost.forwards == 3 * (9 + 3)
    first, second = bright.calls[3].x_t, bright.calls[4].x_t
    scheduler = tiny.scheduler()
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        x_prev = scheduler.step(bright.calls[3].pred, bright.calls[3].t, first).prev_sample
    a = tiny.alpha_bar(scheduler.timesteps[1]) / tiny.alpha_bar(int(scheduler.timesteps[1]) - 1000 // STEPS)
    noise = ((second - a.sqrt() * x_prev) / (1 - a).sqrt()).detach()
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.05


def test_without_noise_x_t_itself_moves_and_the_solver_steps_once(tiny):
    bright = Bright(again=Recurrence(3, noise=False), strength=Unit(0.3))
    run = draw(tiny, [bright], batch=1)
    assert [ctx.i for ctx in bright.calls[:9]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    first, second = bright.calls[0], bright.calls[1]
    way = second.x_t - first.x_t
    assert torch.equal(first.t, second.t)
    torch.testing.assert_close(rms(second.x_t), rms(first.x_t))
    assert 0.8 < rms(way).item() / (0.3 * first.sigma.item() ** 2) < 1.2, "about sigma times an update of .3 sigma"
    assert torch.equal(
        run.images, draw(tiny, [Bright(again=Recurrence(3, noise=False), strength=Unit(0.3))], batch=1).images
    )
    once = draw(tiny, [Bright(strength=Unit(0.3))], batch=1)
    assert run.curves["bright"][:, 0].mean() < once.curves["bright"][:, 0].mean(), (
        "the loss falls at one and the same t"
    )


def test_recurrence_ends_with_its_window(tiny):
    bright = Bright(again=Recurrence(3, Window(0, 0.2)), weight=0.0)
    draw(tiny, [bright])
    assert [ctx.i for ctx in bright.calls] == [0, 0, 0, 1, 1, 1, 2]
    with pytest.raises(ValueError, match="cannot be done 0 times: recurrence takes 1"):
        Recurrence(0)


def test_multistep_solver_refuses_recurrence(make_pipeline):
    pipe = make_pipeline()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="DPMSolverMultistepScheduler remembers .* bright .* use DDIMScheduler"):
        draw(Backbone(pipe), [Bright(again=Recurrence(2))])
    assert draw(Backbone(pipe), [Bright(again=Recurrence(2, noise=False))]).images.isfinite().all()


# --- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "1 seeds for 3 prompts: give one seed per image"),
        ({"steps": 0}, "steps=0 must be between 1 and 1000"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"guidance": [7.5]}, r"holds 7.5, which is no Guidance: pass objects such as CFG\(7.5\)"),
        ({"prompts": []}, "there are no prompts: give at least one"),
        ({"prompts": ["red " * 90]}, "92 tokens .* reads 77"),
    ],
)
def test_wrong_arguments(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        sample(tiny, **{"prompts": PROMPTS, "steps": 2} | options)


def test_sigma_space_solver_is_refused(make_pipeline):
    pipe = make_pipeline()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="EulerDiscreteScheduler works on .* use DDIMScheduler"):
        draw(Backbone(pipe), [])


def test_wrong_window():
    with pytest.raises(ValueError, match=r"window \(0.5, 1.2\) must satisfy"):
        Window(0.5, 1.2)
