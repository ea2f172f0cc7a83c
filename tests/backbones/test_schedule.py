"""Noise levels and parameterisations: exact both ways, never divided by an alpha of 0, and alike for an energy."""

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from tiny_pipelines import BETAS, tiny_backbone

from helpers.backbones.schedule import Epsilon, Flow, Level, Schedule, Velocity, renoise
from helpers.conditions import Prompt
from helpers.guidance.cfg import CFG
from helpers.sampling.gradient import gradient_update
from helpers.sampling.hooks import Ctx, EnergyGuidance, Job
from helpers.sampling.loop import denoise, sample
from helpers.sampling.strength import Raw

G = torch.Generator().manual_seed(0)
X0, EPS, DELTA = (torch.randn(2, 4, 8, 8, generator=G, dtype=torch.float64) for _ in range(3))
VARIANCE_PRESERVING = [Level.of_bar(torch.tensor(bar, dtype=torch.float64)) for bar in (0.9, 0.4, 0.005)]
STRAIGHT = [Level(torch.tensor(1 - s).double(), torch.tensor(s).double()) for s in (0.1, 0.6, 0.97)]
EXACT = [(kind, level) for kind in (Epsilon, Velocity) for level in VARIANCE_PRESERVING]
EXACT += [(Flow, level) for level in STRAIGHT]


@pytest.mark.parametrize("kind, level", EXACT)
def test_a_prediction_is_read_exactly(kind, level):
    x_t, pred = level.mix(X0, EPS), kind.of(X0, EPS, level)
    torch.testing.assert_close(kind.to_eps(pred, x_t, level), EPS)
    torch.testing.assert_close(kind.to_x0(pred, x_t, level), X0)


@pytest.mark.parametrize("kind, level", EXACT)
def test_a_shift_is_one_of_eps(kind, level):
    x_t, pred = level.mix(X0, EPS), kind.of(X0, EPS, level)
    moved = kind.shift(pred, DELTA, level)
    torch.testing.assert_close(kind.to_eps(moved, x_t, level), EPS + DELTA)
    torch.testing.assert_close(kind.to_x0(moved, x_t, level), X0 - level.sigma / level.alpha * DELTA)
    assert torch.equal(kind.shift(pred, torch.zeros_like(pred), level), pred)


@pytest.mark.parametrize("name, first", [("sd21", 999), ("sd3", 1000.0)])
def test_at_alpha_0_nothing_is_divided(name, first):
    schedule = tiny_backbone(name).schedule
    level = schedule.level(first)
    assert level.alpha == 0 and level.sigma == 1
    x_t, x0 = EPS.float(), X0.float()
    pred = schedule.of(x0, x_t, level)
    torch.testing.assert_close(schedule.to_eps(pred, x_t, level), x_t)
    torch.testing.assert_close(schedule.to_x0(pred, x_t, level), x0)
    assert torch.equal(schedule.shift(pred, DELTA.float(), level), pred)
    assert level.ratio.isfinite()


class Bright(EnergyGuidance):
    """The picture's mean brightness."""

    def energy(self, ctx, state):
        return ctx.image.flatten(1).mean(1), {}


@pytest.mark.parametrize("name", ["sd21", "sd3"])
def test_a_guided_run_begins_at_alpha_0(name):
    backbone = tiny_backbone(name)
    steps = list(denoise(backbone, "a red car", [CFG(3.0), Bright(weight=100.0)], steps=3, strict=True))
    assert steps[0].level.alpha == 0 and "bright" not in steps[0].curves
    assert "bright" in steps[1].curves and steps[1].curves["update_rms"] > 0
    off = sample(backbone, "a red car", [CFG(3.0), Bright(weight=0.0)], steps=3)
    assert torch.equal(off.latents, sample(backbone, "a red car", [CFG(3.0)], steps=3).latents)


def _moved(kind, ratio):
    """How an energy moves the x0_hat of a denoiser that knows only x_t / alpha and sigma / alpha, by this kind's
    prediction; the denoiser and the energy are the same for every kind."""
    alpha = 1 / (1 + ratio) if kind is Flow else (1 + ratio**2) ** -0.5
    level = Level(torch.tensor(alpha).double(), torch.tensor(alpha * ratio).double())
    x_t = level.mix(X0, EPS).requires_grad_()
    x0 = torch.tanh(x_t / level.alpha * 0.7).roll(1, -1) / (1 + ratio)
    eps = (x_t - level.alpha * x0) / level.sigma
    backbone = tiny_backbone("sd15")
    job = Job(backbone, [Prompt(text="a")] * 2, [0, 1], backbone.solver(2))
    ctx = Ctx(job, [0, 1], 0, x_t)
    ctx.level, method = level, Bright(weight=50.0, strength=Raw(2.0))
    pred = kind.of(x0, eps, level)
    read = kind.to_x0(pred, x_t, level)
    torch.testing.assert_close(read, x0)
    ctx.losses = {method: ((read - 0.5).square().flatten(1).mean(1), {})}
    update = gradient_update(ctx)
    return kind.to_x0(kind.shift(pred, update.eps, level), x_t, level).detach() - x0.detach()


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_an_energy_moves_x0_hat_equally_in_every_parameterisation(ratio):
    eps, v, flow = (_moved(kind, ratio) for kind in (Epsilon, Velocity, Flow))
    assert eps.abs().max() > 1e-4
    torch.testing.assert_close(v, eps)
    torch.testing.assert_close(flow, eps)


@pytest.mark.parametrize("levels", [VARIANCE_PRESERVING, STRAIGHT])
def test_renoising_keeps_the_marginal(levels):
    s, t = levels[0], levels[2]
    assert torch.equal(renoise(s.mix(X0, EPS), s, s, DELTA), s.mix(X0, EPS))
    clean = Level(torch.tensor(1.0).double(), torch.tensor(0.0).double())
    torch.testing.assert_close(renoise(X0, clean, t, EPS), t.mix(X0, EPS))
    # x_s = alpha_s x0 + sigma_s eps: what eps and the new noise weigh together is sigma_t
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    old, new = renoise(s.sigma * one, s, t, zero), renoise(zero, s, t, one)
    torch.testing.assert_close(old.square() + new.square(), t.sigma.square() * one)


@pytest.mark.parametrize(
    "scheduler, said",
    [
        (DDIMScheduler(prediction_type="sample"), "'sample' is not served"),
        (EDMEulerScheduler(), "EDMEulerScheduler .*is not served"),
        (DDIMScheduler(**BETAS, rescale_betas_zero_snr=True), "predicts eps but its last timestep has alpha 0"),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "use_dynamic_shifting"),
    ],
)
def test_noise_levels_of_another_kind_are_refused(scheduler, said):
    with pytest.raises(ValueError, match=said):
        Schedule(scheduler, torch.device("cpu"))
