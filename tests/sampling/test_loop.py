"""The loop: equal to diffusers without guidance, exact at strength zero, the same image whatever the batch, counted."""

import time
from dataclasses import dataclass, field

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from helpers.backbones.load import wrap
from helpers.conditions import Prompt
from helpers.guidance.cfg import CFG
from helpers.sampling import seeds as streams
from helpers.sampling.gradient import gradient_update
from helpers.sampling.hooks import Ctx, EnergyGuidance, Guidance, Recurrence, Window
from helpers.sampling.loop import denoise, sample
from helpers.sampling.strength import Matched, Polyak, Raw, Strength, Unit, rms

PROMPTS = ["a red car", "a blue fish on the grass", "a red ball left of a blue car"]
STEPS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Bright(EnergyGuidance):
    """Pulls the picture towards white; notes what it was called with."""

    weight: float = 300.0
    window: Window = Window(0, 0.5)  # noqa: RUF009
    strength: Strength = Raw()  # noqa: RUF009
    break_at: int | None = None
    calls: list[Ctx] = field(default_factory=list)

    def energy(self, ctx, state):
        self.calls.append(ctx)
        loss = (1 - ctx.image).square().flatten(1).mean(1)
        if ctx.i == self.break_at:
            loss = loss * torch.tensor([float("nan") if k == 1 else 1.0 for k in ctx.index])
        return loss, {"twice": 2 * loss.detach()}


class Other(Bright):
    """Another method that does the same."""


class Third(Bright):
    pass


FAINT = Raw(1e-9)  # looks on: a strength of 0 would switch the method off


def draw(backbone, guidance, **options):
    return sample(backbone, PROMPTS, guidance, **{"steps": STEPS, "seeds": [5, 6, 7]} | options)


def noise(backbone, seeds):
    return streams.noise([torch.Generator().manual_seed(s) for s in seeds], backbone.latent_shape, torch.empty(0))


def diffusers_images(backbone, cfg_scale, **options):
    latents = noise(backbone, (5, 6, 7))
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


@pytest.mark.parametrize(
    ("solver", "scheduler"), [("dpm", DPMSolverMultistepScheduler), ("ddpm", DDPMScheduler), ("ddim", DDIMScheduler)]
)
def test_every_solver_equals_diffusers(make_pipeline, solver, scheduler):
    backbone = wrap(make_pipeline())
    run = draw(backbone, [CFG(5)], batch=2, solver=solver)
    backbone.pipe.scheduler = scheduler.from_config(backbone.pipe.scheduler.config)
    own_noise = [torch.Generator().manual_seed(s) for s in (5, 6, 7)]
    theirs = backbone.pipe(PROMPTS, num_inference_steps=STEPS, guidance_scale=5, generator=own_noise, output_type="pt")
    torch.testing.assert_close(run.images, theirs.images, atol=1e-4, rtol=0)


def test_effective_cfg_is_the_scale(tiny):
    torch.testing.assert_close(draw(tiny, [CFG(5)]).eff_cfg, torch.full((3,), 5.0), atol=1e-3, rtol=0)
    assert not torch.allclose(draw(tiny, [CFG(5), Bright()]).eff_cfg, torch.tensor(5.0), atol=1e-3)


# --- batches and seeds -----------------------------------------------------------------------------------------------


def test_noise_is_bit_equal_whatever_the_batch(tiny):
    assert torch.equal(noise(tiny, [5, 6, 7])[2], noise(tiny, [7])[0])


def test_images_do_not_depend_on_the_batch(backbone):
    methods = [CFG(5), Bright(recurrence=Recurrence(2))]
    whole = draw(backbone, methods, batch=3)
    for size in (1, 2):
        part = draw(backbone, methods, batch=size)
        torch.testing.assert_close(part.images, whole.images, atol=1e-4, rtol=0)
        torch.testing.assert_close(part.curves["bright"], whole.curves["bright"], atol=1e-4, rtol=0, equal_nan=True)
    assert (whole.images - draw(backbone, [CFG(5)]).images).abs().max() > 0.01


def test_one_at_a_time_an_image_is_bit_equal_whatever_else_is_drawn(backbone):
    methods = [CFG(5), Bright(strength=Unit(0.5), recurrence=Recurrence(3))]
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


@pytest.mark.parametrize(
    "off", [{"weight": 0.0}, *({"strength": rule(0)} for rule in (Raw, Unit, Polyak, Matched))], ids=repr
)
def test_switched_off_it_is_bit_equal_and_costs_nothing(backbone, off):
    idle, bare = draw(backbone, [CFG(5), Bright(**off, recurrence=Recurrence(3))]), draw(backbone, [CFG(5)])
    assert (idle.cost.forwards, idle.cost.backwards) == (bare.cost.forwards, 0)
    assert torch.equal(idle.images, bare.images)


def test_guidance_lowers_its_loss(backbone):
    def loss(run):
        return (1 - run.images).square().mean()

    plain = loss(draw(backbone, [CFG(5)]))
    for rule in (Raw(10), Unit(0.1), Polyak(0.1), Matched(0.5)):
        assert loss(draw(backbone, [CFG(5), Bright(strength=rule, window=Window(0, 1))])) < plain - 2e-3


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_one_step_against_the_gradient_lowers_the_loss(make_pipeline, make_context, kind):
    """Through the U-Net, CFG, x0_hat and the decoder; and it is the gradient: checked by finite differences."""
    double = wrap(make_pipeline(kind).to(torch.float64))
    ctx, bright = make_context(double, PROMPTS), Bright()
    loss, _ = bright.energy(ctx, None)
    (grad,) = torch.autograd.grad(loss.sum(), ctx.x_t)
    direction = torch.randn(grad.shape, generator=torch.Generator().manual_seed(1), dtype=grad.dtype)
    step = 0.05 * grad / rms(grad)

    @torch.no_grad()
    def at(change):
        return bright.energy(make_context(double, PROMPTS, x_t=ctx.x_t + change), None)[0]

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
        def combine(self, pred, ctx, state):
            graphs.append(pred.requires_grad)
            return super().combine(pred, ctx, state)

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
    run = draw(tiny, [CFG(5), Bright(strength=Raw(group="a")), Other(weight=100.0, strength=Raw(group="a"))])
    for hook in hooks:
        hook.remove()
    assert (len(forwards), len(decodes), len(backwards)) == (STEPS, 3 + 1, 3)
    cost = run.cost
    assert (cost.images, cost.forwards, cost.backwards, cost.decodes) == (3, 3 * 2 * STEPS, 3 * 3, 3 * 3 + 3)
    assert cost.nfe == 2 * STEPS and cost.seconds > 0 and cost.peak_mb > 50


def test_energies_of_one_group_share_a_gradient_and_others_do_not(tiny):
    together = draw(tiny, [CFG(5), Bright(weight=400.0)])
    shared = draw(tiny, [CFG(5), Bright(strength=Raw(group="a")), Other(weight=100.0, strength=Raw(group="a"))])
    torch.testing.assert_close(shared.images, together.images, atol=1e-4, rtol=0)
    assert shared.cost.backwards == together.cost.backwards
    apart = draw(tiny, [CFG(5), Bright(), Other(weight=100.0)])
    torch.testing.assert_close(apart.images, together.images, atol=1e-4, rtol=0)
    assert apart.cost.backwards == 2 * together.cost.backwards
    assert apart.curves["cosine.bright.other"][:, :3].min() > 0.999 and "cosine.bright.other" not in shared.curves


def test_equal_rules_do_not_share_by_themselves(tiny):
    """Each of two methods moves eps by its own .3; only where it is asked for do both together move it by .3."""

    def moved(*rules):
        first = next(
            denoise(tiny, PROMPTS, [kind(strength=rule) for kind, rule in zip((Bright, Other), rules)], steps=STEPS)
        )
        return (first.curves["update_rms"] / first.level.sigma).mean().item()

    assert moved(Unit(0.3)) == pytest.approx(0.3, rel=1e-3)
    assert moved(Unit(0.3), Unit(0.3)) == pytest.approx(0.6, rel=1e-3)
    assert moved(Unit(0.3), Unit(0.30001)) == pytest.approx(0.6, rel=1e-3)
    assert moved(Unit(0.3, group="a"), Unit(0.3, group="a")) == pytest.approx(0.3, rel=1e-3)
    assert moved(Unit(0.3, group="a"), Unit(0.3, group="b")) == pytest.approx(0.6, rel=1e-3)


def test_branches_of_one_name_are_evaluated_once(tiny):
    class Again(CFG):
        decides = False

        def combine(self, pred, ctx, state):
            return pred + 0 * ctx.preds["uncond"]

    run = draw(tiny, [CFG(5), Again(3)])
    assert run.cost.nfe == 2 * STEPS and torch.equal(run.images, draw(tiny, [CFG(5)]).images)


def test_curves(tiny):
    run = draw(tiny, [CFG(5), Bright()])
    assert run.curves["bright"].shape == (3, STEPS)
    assert run.curves["bright"].isnan().tolist() == 3 * [[False] * 3 + [True] * 3]
    torch.testing.assert_close(run.curves["bright.twice"], 2 * run.curves["bright"], equal_nan=True)
    assert (run.curves["update_rms"][:, :3] > 0).all() and not run.curves["eff_cfg"].isnan().any()


# --- where it starts, and after each step ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Halfway(Guidance):
    """Starts from a constant and pins the left half of every x_{t-1} to another."""

    recurrence: Recurrence = Recurrence()  # noqa: RUF009
    seen: list = field(default_factory=list)

    def start(self, x_t, index, state):
        self.seen.append(("start", list(index)))
        return torch.full_like(x_t, 0.5)

    def after(self, x_prev, ctx, state):
        self.seen.append(("after", ctx.i))
        return torch.cat([torch.full_like(x_prev[..., :8], float(ctx.i)), x_prev[..., 8:]], -1)


def test_start_and_after_decide_the_latents(tiny):
    halfway, bright = Halfway(), Bright(strength=FAINT)
    run = draw(tiny, [CFG(5), halfway, bright], batch=2)
    assert halfway.seen == [
        *[("start", [0, 1]), *[("after", i) for i in range(STEPS)]],
        *[("start", [2]), *[("after", i) for i in range(STEPS)]],
    ]
    assert (bright.calls[0].x_t == 0.5).all()
    assert (bright.calls[1].x_t[..., :8] == 0).all() and (bright.calls[1].x_t[..., 8:] != 0.5).any()
    assert (run.latents[..., :8] == STEPS - 1).all()


def test_after_comes_before_the_noise_of_a_recurrence(tiny):
    halfway = Halfway(recurrence=Recurrence(2, Window(0, 0.1)))
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
    torch.testing.assert_close(Raw(2).update(loss, grad, ctx), 2 * ctx.level.sigma * grad)
    unit = rms(Unit(0.3).update(loss, grad, ctx)).flatten()
    torch.testing.assert_close(unit, torch.tensor([0.3, 0.3, 0.0]) * ctx.level.sigma)
    cfg = rms(ctx.eps - tiny.schedule.to_eps(ctx.preds["uncond"], ctx.x_t, ctx.level)).flatten()
    matched = rms(Matched(0.2).update(loss, grad, ctx)).flatten()
    torch.testing.assert_close(matched, 0.2 * cfg * torch.tensor([1.0, 1.0, 0.0]))
    clipped = rms(Raw(2, clip=0.5).update(loss, grad, ctx)).flatten()
    torch.testing.assert_close(clipped, rms(2 * ctx.level.sigma * grad).flatten().clamp(max=0.5))


@torch.no_grad()
def test_polyak_goes_to_the_zero_of_a_linear_loss_and_never_further_than_unit(backbone, make_context):
    """Through the solver itself: the loss <g, x> - b at x_{t-1} is 0 where the step is short enough to get there."""
    ctx = make_context(backbone, PROMPTS)
    grad = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)) * 0.01
    loss = torch.tensor([0.5, 0.02, 1e6])

    def at_next(pred):
        x_next = ctx.job.solver.step(pred, ctx.i, ctx.x_t, [])
        return (grad * x_next).flatten(1).sum(1)

    update = Polyak(1.0).update(loss, grad, ctx)
    fallen = at_next(ctx.pred) - at_next(backbone.schedule.shift(ctx.pred, update, ctx.level))
    torch.testing.assert_close(fallen[:2], loss[:2], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(update[2], Unit(1.0).update(loss, grad, ctx)[2])
    assert (rms(update) <= rms(Unit(1.0).update(loss, grad, ctx)) * 1.001).all()
    assert not Polyak(1.0).update(loss, torch.zeros_like(grad), ctx).any()


def test_losses_are_summed_over_the_batch(tiny, make_context):
    whole, alone = make_context(tiny, PROMPTS), make_context(tiny, PROMPTS, index=[1])
    bright = Bright(weight=7.0)
    whole.losses, alone.losses = {bright: bright.energy(whole, None)}, {bright: bright.energy(alone, None)}
    several, single = gradient_update(whole), gradient_update(alone)
    torch.testing.assert_close(several.eps[1], single.eps[0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(several.grad_rms[1], single.grad_rms[0])


def test_matched_without_cfg_is_refused(tiny):
    with pytest.raises(ValueError, match=r"put CFG\(...\) into the guidance list"):
        draw(tiny, [Bright(strength=Matched())])


def test_polyak_goes_to_where_the_loss_would_be_0_in_a_step_and_where_x_t_itself_is_refined(tiny):
    """A step moves the latent by less than sigma_t times the update: with its reach x_t would be refined too far."""
    bright = Bright(weight=1.0, strength=Polyak(1e4), recurrence=Recurrence(3, noise=False))
    for _ in denoise(tiny, PROMPTS, [CFG(5), bright], steps=STEPS, seeds=[5, 6, 7]):
        pass
    assert [ctx.refining for ctx in bright.calls] == [True, True, False] * 3
    ratios = []
    for ctx in bright.calls:
        step = ctx.level.sigma * ctx.end.alpha / ctx.level.alpha - ctx.end.sigma
        reach = ctx.level.sigma if ctx.refining else step
        slope = ctx.x_t[0].numel() * ctx.curves["grad_rms"]
        torch.testing.assert_close(ctx.curves["update_rms"], ctx.losses[bright][0] / (reach * slope), rtol=1e-3, atol=0)
        ratios.append(step / ctx.level.sigma)
    assert min(ratios) < 0.9, "they can be told apart"


@pytest.mark.parametrize("rule", [Raw(), Polyak(0.1)])
def test_non_finite_gradient_is_skipped_named_and_kept_to_its_image(tiny, rule):
    whole = draw(tiny, [CFG(5), Bright(strength=rule)])
    broken = draw(tiny, [CFG(5), Bright(strength=rule, break_at=2)])
    (warning,) = broken.warnings
    assert warning == (
        "image 1 (seed 6), step 2 of 6: bright's loss is not finite: lower the weight or clip the strength; its update "
        "was skipped"
    )
    assert torch.equal(broken.images[[0, 2]], whole.images[[0, 2]])
    assert broken.images.isfinite().all() and not torch.equal(broken.images[1], whole.images[1])
    with pytest.raises(FloatingPointError, match="image 1 .* lower the weight or clip .* or sample with strict=False"):
        draw(tiny, [CFG(5), Bright(strength=rule, break_at=2)], strict=True)


# --- recurrence ------------------------------------------------------------------------------------------------------


def test_recurrence_does_a_step_again_from_noised_x(tiny):
    bright = Bright(recurrence=Recurrence(3), strength=FAINT)
    run = draw(tiny, [bright])
    assert [ctx.i for ctx in bright.calls] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [ctx.again for ctx in bright.calls] == [2, 1, 0] * 3
    assert run.cost.forwards == 3 * (9 + 3)
    first, second = bright.calls[3], bright.calls[4]
    solver = tiny.solver(STEPS)
    x_prev = solver.step(first.pred, 1, first.x_t, [])
    kept = solver.starts[1].alpha / solver.ends[1].alpha
    spread = (solver.starts[1].sigma.square() - (kept * solver.ends[1].sigma).square()).sqrt()
    noise = (second.x_t - kept * x_prev) / spread
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.05


def test_without_noise_x_t_itself_moves_and_the_solver_steps_once(tiny):
    bright = Bright(recurrence=Recurrence(3, noise=False), strength=Unit(0.3))
    run = draw(tiny, [bright], batch=1)
    assert [ctx.i for ctx in bright.calls[:9]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [ctx.refining for ctx in bright.calls[:3]] == [True, True, False]
    first, second = bright.calls[0], bright.calls[1]
    way = second.x_t - first.x_t
    assert torch.equal(first.t, second.t)
    torch.testing.assert_close(rms(second.x_t), rms(first.x_t))
    assert 0.8 < rms(way).item() / (0.3 * first.level.sigma.item() ** 2) < 1.2, (
        "about sigma times an update of .3 sigma"
    )
    assert torch.equal(run.images, draw(tiny, [bright], batch=1).images)
    once = draw(tiny, [Bright(strength=Unit(0.3))], batch=1)
    fallen = run.curves["bright"][:, 0].mean() < once.curves["bright"][:, 0].mean()
    assert fallen, "the loss falls at one and the same t"


def test_recurrence_ends_with_its_window(tiny):
    bright = Bright(recurrence=Recurrence(3, Window(0, 0.2)), strength=FAINT)
    draw(tiny, [bright])
    assert [ctx.i for ctx in bright.calls] == [0, 0, 0, 1, 1, 1, 2]
    with pytest.raises(ValueError, match=r"Recurrence\(times=0\): use a finite number from 1 to 1000"):
        Recurrence(0)


def test_in_a_combination_everyone_is_repeated_as_it_asks_for(tiny):
    """At the first step one method refines x_t, by its energy alone; then the step is done twice for another, at first
    with its gradient alone; a third one pulls once."""
    early = Window(0, 0.1)
    refined = Bright(recurrence=Recurrence(3, early, noise=False), strength=Unit(0.1))
    repeated, once = Other(recurrence=Recurrence(2, early)), Third()
    cfg = CFG(5)
    seen = list(denoise(tiny, PROMPTS, [refined, cfg, repeated, once], steps=STEPS, seeds=[5, 6, 7]))
    assert [(ctx.i, ctx.again) for ctx in seen] == [(0, 1), (0, 0), *((i, 0) for i in range(1, STEPS))]
    assert [(ctx.i, ctx.refining) for ctx in refined.calls] == [(0, 1), (0, 1), (0, 0), (1, 0), (2, 0)]
    assert [(ctx.i, ctx.again) for ctx in repeated.calls] == [(0, 1), (0, 0), (1, 0), (2, 0)]
    assert [ctx.i for ctx in once.calls] == [0, 1, 2]
    cost = seen[0].job.cost
    assert cost.forwards == 3 * 2 * (2 + 2 + STEPS - 1), "twice refined, twice done, and the other steps"
    assert cost.backwards == 3 * (2 + 1 + 3 + 2 * 3), "gradients that are not shared"
    alone = Bright(recurrence=Recurrence(3, early, noise=False), strength=Unit(0.1))
    next(denoise(tiny, PROMPTS, [alone, cfg], steps=STEPS, seeds=[5, 6, 7]))
    torch.testing.assert_close(refined.calls[1].x_t, alone.calls[1].x_t)


def test_a_solver_with_a_memory_refuses_repeated_steps(tiny):
    message = "'dpm' cannot serve the recurrence of bright, which repeats a step: use solver='ddim' or 'ddpm'"
    with pytest.raises(ValueError, match=message):
        draw(tiny, [Bright(recurrence=Recurrence(2))], solver="dpm")
    again = Bright(recurrence=Recurrence(2, noise=False))
    assert draw(tiny, [again], solver="dpm").images.isfinite().all()


# --- a generator of steps --------------------------------------------------------------------------------------------


def test_denoise_yields_every_step_of_every_batch(tiny):
    run = draw(tiny, [CFG(5)], batch=2)
    seen = [(ctx.index, ctx.i) for ctx in denoise(tiny, PROMPTS, [CFG(5)], steps=STEPS, seeds=[5, 6, 7], batch=2)]
    assert seen == [*(([0, 1], i) for i in range(STEPS)), *(([2], i) for i in range(STEPS))]
    *_, last = denoise(tiny, PROMPTS, [CFG(5)], steps=STEPS, seeds=[5, 6, 7], batch=2)
    assert torch.equal(last.x_prev, run.latents[2:])
    assert torch.equal(tiny.decode(last.x_prev).clamp(0, 1), run.images[2:])


def test_a_consumer_may_stop_and_nothing_stays_behind(tiny):
    forwards = []
    hook = tiny.pipe.unet.register_forward_hook(lambda *_: forwards.append(torch.is_grad_enabled()))
    steps = denoise(tiny, PROMPTS, [CFG(5), Bright()], steps=STEPS)
    first, second = next(steps), next(steps)
    assert torch.is_grad_enabled(), "outside the steps autograd is the consumer's"
    steps.close()
    hook.remove()
    assert (first.i, second.i) == (0, 1) and forwards == [True, True]
    assert not any(x.requires_grad for x in (second.x_prev, second.x_t, second.pred, second.image, second.x0_hat))
    cost = first.job.cost
    assert (cost.forwards, cost.backwards, cost.decodes) == (3 * 2 * 2, 3 * 2, 3 * 2) and cost.seconds > 0


def test_what_a_consumer_looks_at_is_not_counted(tiny):
    counted = draw(tiny, [CFG(5)]).cost
    for ctx in denoise(tiny, PROMPTS, [CFG(5)], steps=STEPS):
        assert ctx.image.shape == (3, 3, 64, 64)
        ctx.cost.auxiliary += 7
        for _ in denoise(tiny, "a red car", steps=1):
            pass
        time.sleep(0.3)
    cost = ctx.job.cost
    assert (cost.forwards, cost.decodes, cost.auxiliary) == (counted.forwards, 0, 0)
    assert 0 < cost.seconds < STEPS * 0.3 and cost.peak_mb > 50


def test_a_consumer_may_move_what_the_next_step_begins_with(tiny):
    started = []
    for ctx in denoise(tiny, PROMPTS, [CFG(5)], steps=3):
        started.append(ctx.x_t)
        if ctx.i == 0:
            ctx.x_prev = ctx.x_prev[[2, 2, 2]]
    assert torch.equal(started[1], started[1][[2, 2, 2]]) and not torch.equal(started[0], started[0][[2, 2, 2]])


def test_wrong_arguments_are_refused_at_the_call(tiny):
    with pytest.raises(ValueError, match="1 seeds for 3 prompts"):
        denoise(tiny, PROMPTS, seeds=[1])


# --- windows and lists -----------------------------------------------------------------------------------------------


def test_a_window_may_be_a_pair(tiny):
    written = draw(tiny, [CFG(5, window=(0, 1)), Bright(window=[0, 0.5])])
    assert torch.equal(written.images, draw(tiny, [CFG(5), Bright(window=Window(0, 0.5))]).images)
    assert torch.equal(written.images, draw(tiny, [CFG(5), Bright(window={"start": 0, "stop": 0.5})]).images)


def test_guidance_may_be_a_generator_or_one_method(tiny):
    guided = draw(tiny, [CFG(5.0)]).images
    assert torch.equal(draw(tiny, (method for method in [CFG(5.0)])).images, guided)
    assert torch.equal(draw(tiny, CFG(5.0)).images, guided)


class Deciding(Guidance):
    decides = True


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([Deciding(), CFG(5)], "deciding and cfg each decide how predictions are combined: keep one of them"),
        ([CFG(1), CFG(5)], "guidance holds 'cfg' twice: give all it shall do to one object"),
        ([Bright(), Bright()], "guidance holds 'bright' twice"),
        ([7.5], r"holds 7.5, which is no Guidance: pass objects such as CFG\(7.5\)"),
        ([CFG], "which is no Guidance: pass objects"),
        (None, r"guidance=None: give a list of methods, such as \[CFG\(7.5\)\]"),
        (7.5, r"guidance=7.5: give a list of methods"),
    ],
)
def test_wrong_lists_of_methods(tiny, methods, message):
    with pytest.raises(ValueError, match=message):
        draw(tiny, methods)


def test_a_method_that_never_acts_is_named(tiny):
    run = draw(tiny, [CFG(5), Bright(window=(0.9, 0.95))])
    assert run.warnings == ["bright never acted in 6 steps: widen its window or take more steps"]
    assert draw(tiny, [CFG(5), Bright(window=(0, 0))]).warnings == [], "an empty window is meant"


# --- what is not finite ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Broken(Guidance):
    """Breaks image 1 at step 2 in one of its hooks, and from then on."""

    hook: str

    def _made(self, hook, values, ctx):
        if hook != self.hook or ctx.i < 2 or 1 not in ctx.index:
            return values
        values = values.clone()
        values[ctx.index.index(1)] = torch.nan
        return values

    def start(self, x_t, index, state):
        return (
            x_t
            * torch.tensor([torch.inf if k == 1 and self.hook == "start" else 1.0 for k in index])[:, None, None, None]
        )

    def before(self, ctx, state):
        return self._made("before", ctx.x_t, ctx)

    def combine(self, pred, ctx, state):
        return self._made("combine", pred, ctx)

    def after(self, x_prev, ctx, state):
        return self._made("after", x_prev, ctx)


class Wild(Raw):
    def scaled(self, loss, grad, ctx):
        wrong = [torch.inf if k == 1 and ctx.i == 2 else 1.0 for k in ctx.index]
        return grad * torch.tensor(wrong)[:, None, None, None]


@pytest.fixture
def broken_model(make_pipeline):
    """A backbone that breaks image 1 of 3 at step 2, in its prediction or its decoder."""

    def make(part):
        backbone = wrap(make_pipeline())
        true = getattr(backbone, part)

        def wrong(x, *arguments):
            made = true(x, *arguments)
            if part == "decode" or int(arguments[0]) == int(backbone.solver(STEPS).timesteps[2]):
                made[1::3] = torch.nan
            return made

        setattr(backbone, part, wrong)
        return backbone

    return make


LOST = {
    "start": "at the start: x_T of broken",
    "before": "step 2 of 6: x_t moved by broken",
    "combine": "step 2 of 6: the prediction combined by broken",
    "after": "step 2 of 6: x_t after broken",
    "predict": "step 2 of 6: the denoiser's prediction",
    "decode": "at the end: the decoded picture",
}


@pytest.mark.parametrize("where", LOST)
def test_what_is_not_finite_is_named_once_per_image(tiny, broken_model, where):
    inside = where in ("predict", "decode")
    backbone = broken_model(where) if inside else tiny
    methods = [CFG(5)] if inside else [CFG(5), Broken(hook=where)]
    run, whole = draw(backbone, methods), draw(tiny, [CFG(5)])
    (warning,) = run.warnings
    assert warning.startswith(f"image 1 (seed 6), {LOST[where]} is not finite: ")
    assert torch.equal(run.images[[0, 2]], whole.images[[0, 2]]) and run.images[1].isnan().any()
    with pytest.raises(
        FloatingPointError, match=r"image 1 \(seed 6\), .* is not finite: .*, or sample with strict=False"
    ):
        draw(backbone, methods, strict=True)


def test_a_broken_image_is_named_once_whatever_else_acts(tiny):
    again = Bright(recurrence=Recurrence(3, noise=False), window=(0, 1))
    run = draw(tiny, [CFG(5), Broken(hook="combine"), again, Other(window=(0, 1))])
    assert len(run.warnings) == 1 and "combined by broken" in run.warnings[0]


def test_an_update_that_is_not_finite_is_skipped_and_named(tiny):
    run, whole = draw(tiny, [CFG(5), Bright(strength=Wild())]), draw(tiny, [CFG(5), Bright(strength=Raw())])
    (warning,) = run.warnings
    assert warning.startswith("image 1 (seed 6), step 2 of 6: bright's update is not finite: ")
    assert "its update was skipped" in warning and run.images.isfinite().all() and whole.images.isfinite().all()
    with pytest.raises(FloatingPointError, match="bright's update is not finite"):
        draw(tiny, [CFG(5), Bright(strength=Wild())], strict=True)


def test_a_loss_that_is_not_finite_is_named_though_its_gradient_is(tiny):
    class Lying(Bright):
        def energy(self, ctx, state):
            loss, info = super().energy(ctx, state)
            return loss + torch.tensor([torch.nan if k == 1 else 0.0 for k in ctx.index]), info

    run = draw(tiny, [CFG(5), Lying()])
    assert [warning.split(": ")[1] for warning in run.warnings] == ["lying's loss is not finite"] * 3
    assert torch.equal(run.images[1], draw(tiny, [CFG(5)]).images[1]), "its update was skipped"


@dataclass(frozen=True, kw_only=True, eq=False)
class Wrong(EnergyGuidance):
    kind: str

    def energy(self, ctx, state):
        loss = ctx.image.flatten(1).mean(1)
        return {"scalar": (loss.mean(), {}), "tensor": loss, "graph": (loss.detach(), {}), "map": (ctx.image, {})}[
            self.kind
        ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("scalar", r"the loss of wrong has the shape \(\) for 3 images: return one number per image"),
        ("map", r"the loss of wrong has the shape \(3, 3, 64, 64\) for 3 images"),
        ("tensor", r"the energy of wrong returned Tensor: return \(loss \(B,\), info\)"),
        ("graph", "the loss of wrong does not depend on x_t: compute it from ctx.image or ctx.x0_hat"),
    ],
)
def test_a_wrong_energy_is_named(tiny, kind, message):
    with pytest.raises(ValueError, match=message):
        draw(tiny, [Wrong(kind=kind)])


def test_an_energy_that_is_missing_is_named(tiny):
    class Empty(EnergyGuidance):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty has no energy: define energy\(ctx, state\)"):
        draw(tiny, [Empty()])


# --- noise levels and precision --------------------------------------------------------------------------------------


def test_zero_terminal_signal_to_noise(make_pipeline):
    pipe = make_pipeline("v_prediction")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, rescale_betas_zero_snr=True)
    backbone = wrap(pipe)
    assert backbone.solver(STEPS).starts[0].alpha == 0
    plain = draw(backbone, [CFG(5)])
    for rule in (Raw, Unit, Polyak, Matched):
        assert torch.equal(draw(backbone, [CFG(5), Bright(strength=rule(0))]).images, plain.images)
        repeated = Bright(strength=rule(0.2), recurrence=Recurrence(2))
        refined = Other(strength=rule(0.2), recurrence=Recurrence(2, noise=False))
        run = draw(backbone, [CFG(5), repeated, refined])
        assert run.images.isfinite().all() and not run.warnings and (run.images - plain.images).abs().max() > 1e-3
    with pytest.raises(ValueError, match="predicts eps but its last timestep has alpha 0"):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")
        wrap(pipe)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_updates_have_the_size_that_is_asked_for(make_pipeline, dtype):
    half = wrap(make_pipeline().to(dtype))
    bright = Bright(weight=1.0, strength=Unit(0.3))
    first = next(denoise(half, PROMPTS[:1], [CFG(5), bright], steps=2))
    assert bright.calls[0].image.dtype == torch.float32 and first.x_prev.dtype == dtype
    assert first.curves["grad_rms"].item() < 1e-3, "whose square float16 does not hold"
    assert first.curves["update_rms"].item() == pytest.approx(0.3 * first.level.sigma.item(), rel=1e-3)
    full = next(denoise(wrap(make_pipeline()), PROMPTS[:1], [CFG(5), bright], steps=2))
    assert first.curves["grad_rms"].item() == pytest.approx(full.curves["grad_rms"].item(), rel=0.2)


# --- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "1 seeds for 3 prompts: give one seed per image"),
        ({"seeds": 7}, "seeds=7: give a list, one whole number per image"),
        ({"seeds": "123"}, "seeds='123': give a list, one whole number per image"),
        *(
            ({"seeds": [0, 1, seed]}, f"the seed {seed!r} must be a whole number from 0 to 4294967295")
            for seed in (-1, 1.7, True, 2**32, 2**64, "5", None)
        ),
        ({"steps": 0}, "steps=0 must be a whole number from 1 to 1000"),
        ({"steps": 1001}, "steps=1001 must be a whole number from 1 to 1000"),
        ({"steps": "20"}, "steps='20' must be a whole number from 1 to 1000"),
        ({"steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"batch": 0}, "batch=0 must be a whole number, at least 1"),
        ({"batch": 1.5}, "batch=1.5 must be a whole number, at least 1"),
        ({"solver": "heun"}, "the solver 'heun' does not serve this model: use one of ddim, ddpm, dpm"),
        ({"prompts": []}, "there are no prompts: give at least one"),
        ({"prompts": None}, "prompts=None: give a list, one text per image"),
        ({"prompts": [7]}, r"the prompt 7 is no text: give strings or Prompt\(text=...\)"),
        ({"prompts": ["red " * 90]}, "92 tokens .* reads 77"),
    ],
)
def test_wrong_arguments(tiny, monkeypatch, options, message):
    monkeypatch.setattr(tiny, "predict", lambda *_: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=message):
        sample(tiny, **{"prompts": PROMPTS, "steps": 2} | options)


def test_what_is_no_backbone_is_refused():
    with pytest.raises(ValueError, match=r"'mini-sd' is no backbone: make one with load_backbone\('mini-sd'\)"):
        sample("mini-sd", PROMPTS)


def test_the_largest_seed_is_another_picture_than_the_first(tiny):
    run = sample(tiny, [PROMPTS[0]] * 2, steps=1, seeds=[0, 2**32 - 1])
    assert not torch.equal(run.images[0], run.images[1]) and run.seeds == [0, 4294967295]


def test_wrong_window():
    with pytest.raises(ValueError, match=r"Window\(stop=1.2\): use a finite number from 0 to 1"):
        Window(0.5, 1.2)
    with pytest.raises(ValueError, match=r"window \(0.5, 0.2\) must satisfy 0 <= start <= stop <= 1"):
        Window(0.5, 0.2)
