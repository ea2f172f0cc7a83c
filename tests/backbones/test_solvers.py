"""Solvers by name: where each step really ends, what each can serve, and what is said when one is replaced."""

import re

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from tiny_pipelines import BETAS, sd15, tiny_backbone

from helpers.backbones.load import wrap
from helpers.backbones.schedule import Schedule
from helpers.backbones.solvers import Solver
from helpers.guidance.cfg import CFG
from helpers.sampling.hooks import EnergyGuidance, Recurrence
from helpers.sampling.loop import sample

G = torch.Generator().manual_seed(0)
X0, EPS = torch.randn(2, 1, 4, 4, 4, generator=G)
NOISE = {key: value for key, value in BETAS.items() if key != "clip_sample"}
CPU = torch.device("cpu")
OWN = {
    "eps, leading, PNDM": PNDMScheduler(**NOISE, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1),
    "eps, leading, Euler": EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1),
    "v, trailing": DDIMScheduler(**BETAS, prediction_type="v_prediction", timestep_spacing="trailing"),
    "v, trailing, kept noise": DDIMScheduler(
        **BETAS, prediction_type="v_prediction", timestep_spacing="trailing", set_alpha_to_one=False
    ),
    "v, zero terminal SNR": DDIMScheduler(
        **BETAS, prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True
    ),
    "eps, linspace, Karras": DPMSolverMultistepScheduler(
        **NOISE, use_karras_sigmas=True, algorithm_type="sde-dpmsolver++", final_sigmas_type="sigma_min"
    ),
}
FLOWS = {
    "shift 3": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "no shift": FlowMatchEulerDiscreteScheduler(),
    "noisy": FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
}


def solver_of(name, own, steps):
    schedule = Schedule(own, CPU)
    return Solver(name, own, schedule, steps, CPU), schedule


def walk(name, own, steps):
    """x after every step, where the model knows x0 and eps exactly; beside it what `ends` says."""
    solver, schedule = solver_of(name, own, steps)
    x, generators = solver.starts[0].mix(X0, EPS), [torch.Generator().manual_seed(0)]
    for i in range(steps):
        x = solver.step(schedule.of(X0, EPS, solver.starts[i]), i, x, generators)
        yield i, x, solver.ends[i].mix(X0, EPS)
        x = solver.starts[i + 1].mix(X0, EPS) if i + 1 < steps else x


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
@pytest.mark.parametrize("step_counts", [range(1, 34), range(34, 67), range(67, 100)], ids=["few", "some", "many"])
def test_ddim_ends_where_it_is_said(own, step_counts):
    for steps in step_counts:
        for i, reached, said in walk("ddim", own, steps):
            torch.testing.assert_close(reached, said, atol=2e-5, rtol=0, msg=lambda m, at=(steps, i): f"{at}: {m}")


def test_ddim_at_6_steps_does_not_end_at_its_next_timestep():
    solver, schedule = solver_of("ddim", OWN["v, trailing"], 6)
    assert int(solver.timesteps[0]) - int(solver.timesteps[1]) == 167
    assert solver.ends[0] == schedule.level(999 - 1000 // 6)


@pytest.mark.parametrize("own", FLOWS.values(), ids=FLOWS)
def test_euler_ends_where_it_is_said(own):
    for steps in (1, 2, 3, 6, 7, 20, 50, 99):
        for _, reached, said in walk("euler", own, steps):
            torch.testing.assert_close(reached, said, atol=2e-5, rtol=0)
        assert torch.equal(said, X0)


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_dpm_ends_where_it_is_said(own):
    for steps in (1, 2, 6, 20, 50):
        solver, schedule = solver_of("dpm", own, steps)
        x = solver.starts[0].mix(X0, EPS)
        for i in range(steps):
            x = solver.step(schedule.of(X0, EPS, solver.starts[i]), i, x, [])
            # at alpha 0 this solver begins at alpha 2^-12
            torch.testing.assert_close(x, solver.ends[i].mix(X0, EPS), atol=2e-3, rtol=0)


def seeded():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_ddpm_ends_where_it_is_said(own):
    """x_{t-1} is alpha x0 + what is left of eps + new noise, whose variances add up to sigma^2."""
    for steps in (2, 6, 20, 50):
        solver, schedule = solver_of("ddpm", own, steps)
        for i in range(steps):
            start, end, zero = solver.starts[i], solver.ends[i], torch.zeros_like(X0)

            def step(x0, eps, at=i, start=start, schedule=schedule, solver=solver):
                return solver.step(schedule.of(x0, eps, start), at, start.mix(x0, eps), [seeded()])

            assert torch.equal(step(X0, EPS), step(X0, EPS))  # no memory: a step may be done again
            noise, added = torch.randn(X0.shape, generator=seeded()), step(zero, zero)
            of_x0, of_eps = step(X0, zero), step(zero, EPS)
            torch.testing.assert_close(of_x0 - added, end.alpha * X0, atol=1e-4, rtol=0)
            kept, new = ((of_eps - added) / EPS).mean(), (added / noise).mean()
            torch.testing.assert_close(kept.square() + new.square(), end.sigma.square(), atol=1e-4, rtol=0)


def test_a_step_of_a_solver_without_memory_may_be_repeated():
    for name, own in (("ddim", OWN["v, trailing"]), ("euler", FLOWS["shift 3"])):
        solver, _ = solver_of(name, own, 5)
        again = [solver.step(EPS, 2, X0, []) for _ in range(3)]
        assert torch.equal(again[0], again[1]) and torch.equal(again[0], again[2])


def test_a_batch_has_no_memory_of_another():
    solver, _ = solver_of("dpm", OWN["v, trailing"], 4)

    def run(one):
        x = EPS
        for i in range(4):
            x = one.step(0.1 * x, i, x, [])
        return x

    assert torch.equal(run(solver.fresh()), run(solver.fresh()))


@pytest.mark.parametrize("name", ["pndm", "euler", "DDIM", "", 3])
def test_an_unknown_solver_is_refused_with_those_that_serve(name):
    with pytest.raises(
        ValueError, match=re.escape(f"solver {name!r} does not serve this model: use one of ddim, ddpm")
    ):
        tiny_backbone("sd15").solver(3, name)


def test_a_solver_of_the_other_family_is_refused():
    with pytest.raises(ValueError, match="'ddim' does not serve this model: use one of euler"):
        tiny_backbone("sd3").solver(3, "ddim")


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, "20", True, None])
def test_steps_are_a_whole_number_that_the_model_has(steps):
    with pytest.raises(ValueError, match=r"steps=.* must be a whole number from 1 to 1000"):
        tiny_backbone("sd21").solver(steps)


def test_steps_past_the_last_timestep_are_refused():
    with pytest.raises(ValueError, match="steps=1000 begins past the model's last timestep 999"):
        tiny_backbone("sd15").solver(1000)  # leading, offset 1
    assert len(tiny_backbone("sd21").solver(1000).timesteps) == 1000


def test_the_models_own_solver_is_replaced_and_said():
    with pytest.warns(UserWarning, match="comes with PNDMScheduler; 'ddim' takes its place") as said:
        backbone = wrap(sd15())
    assert said[0].filename == __file__
    assert len(backbone.solver(3).timesteps) == 3  # PNDM makes 4 calls of 3 steps
    notes = sample(backbone, "a red car", steps=2).warnings
    assert notes == [str(said[0].message)]
    assert sample(backbone, "a red car", steps=2, solver="ddim").warnings == []
    assert sample(tiny_backbone("sd21"), "a red car", steps=2).warnings == []


class Steady(EnergyGuidance):
    def energy(self, ctx, state):
        return ctx.x0_hat.square().flatten(1).mean(1), {}


def test_a_solver_with_memory_refuses_recurrence():
    again = Steady(recurrence=Recurrence(2))
    with pytest.raises(ValueError, match="'dpm' cannot serve the recurrence of steady.*use solver='ddim' or 'ddpm'"):
        sample(tiny_backbone("sd21"), "a red car", [CFG(3.0), again], steps=3, solver="dpm")
    for solver in ("ddim", "ddpm"):
        run = sample(tiny_backbone("sd21"), "a red car", [CFG(3.0), again], steps=3, solver=solver, strict=True)
        assert run.cost.forwards == 12
    refined = Steady(recurrence=Recurrence(2, noise=False))
    assert sample(tiny_backbone("sd21"), "a red car", [refined], steps=3, solver="dpm", strict=True).cost.forwards == 6


def test_what_runs_backwards_asks_the_solver():
    backbone = tiny_backbone("sd21")
    for name in ("ddpm", "dpm"):
        with pytest.raises(ValueError, match=f"'{name}' cannot serve inversion: use solver='ddim'$"):
            backbone.solver(3, name).refuse("inversion", memory=True, random=True)
    backbone.solver(3).refuse("inversion", memory=True, random=True)
    tiny_backbone("sd3").solver(3).refuse("inversion", memory=True, random=True)
