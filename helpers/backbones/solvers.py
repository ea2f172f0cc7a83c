"""Solvers by name: diffusers' schedulers, with what the loop asks of them said once.

A step of a solver without memory may be done again and run backwards. Where a step ends is what the solver really
reaches, not what its next timestep says: DDIM lands on t - T // steps.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
)

from helpers.backbones.schedule import Level, Schedule


def _strided(scheduler: SchedulerMixin, i: int) -> float:
    """DDIM's own rule for the timestep that a step leads to."""
    return float(scheduler.timesteps[i]) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps


def _following(scheduler: SchedulerMixin, i: int) -> float:
    """The next timestep; after the last one, below 0."""
    return float(scheduler.timesteps[i + 1]) if i + 1 < len(scheduler.timesteps) else -1.0


def _flowing(scheduler: SchedulerMixin, i: int) -> float:
    """The next timestep; after the last one 0, where a flow ends."""
    return max(_following(scheduler, i), 0.0)


@dataclass(frozen=True)
class Kind:
    """scheduler: diffusers' class. end: (scheduler, i) -> the timestep where step i ends, below 0 at the solver's last
    noise level. config: what the loop relies on, whatever the model's own scheduler says. memory: it looks at earlier
    predictions, so that no step can be done again. random: a step adds noise, so that it cannot be run backwards. flow:
    for models of flow matching, else for Stable Diffusion's."""

    scheduler: type[SchedulerMixin]
    end: Callable[[SchedulerMixin, int], float]
    config: Mapping[str, object]
    memory: bool = False
    random: bool = False
    flow: bool = False


LATENTS = {"thresholding": False}  # clipping is for pixels
# noise levels of whole timesteps, which the model knows, down to none; no noise on the way
LEVELS = {
    "algorithm_type": "dpmsolver++",
    "final_sigmas_type": "zero",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
}
SOLVERS = {
    "ddim": Kind(DDIMScheduler, _strided, LATENTS | {"clip_sample": False}),
    "ddpm": Kind(DDPMScheduler, _following, LATENTS | {"clip_sample": False}, random=True),
    "dpm": Kind(DPMSolverMultistepScheduler, _following, LATENTS | LEVELS, memory=True),
    "euler": Kind(FlowMatchEulerDiscreteScheduler, _flowing, {"stochastic_sampling": False}, flow=True),
}


def names(schedule: Schedule) -> list[str]:
    """The solvers that serve a model of this schedule, the usual one first."""
    return [name for name, kind in SOLVERS.items() if kind.flow == schedule.flow]


def replaced(own: SchedulerMixin, schedule: Schedule) -> str:
    """What to say where the usual solver is not the scheduler that the model comes with; "" where it is."""
    usual = names(schedule)[0]
    if isinstance(own, SOLVERS[usual].scheduler):
        return ""
    able = ", ".join(map(repr, names(schedule)))
    return f"the model comes with {type(own).__name__}; {usual!r} takes its place: choose with solver=, of {able}"


class Solver:
    """One of SOLVERS with its timesteps set, for one run.

    name: None is the usual one. own: the model's scheduler, whose noise levels and spacing are kept. timesteps
    (steps,): of the model. starts, ends: the noise levels where every step begins and really ends. note: what to say
    where the usual one stands in for the model's own, else "". ValueError for an unknown name, one of the other family,
    or a number of steps that the model does not have.
    """

    def __init__(self, name: str | None, own: SchedulerMixin, schedule: Schedule, steps: int, device: torch.device):
        self.note = replaced(own, schedule) if name is None else ""
        able = names(schedule)
        name = able[0] if name is None else name
        if name not in able:
            raise ValueError(f"the solver {name!r} does not serve this model: use one of {', '.join(able)}")
        most = schedule.timesteps
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
            raise ValueError(
                f"steps={steps!r} must be a whole number from 1 to {most}, what the model was trained with"
            )
        self.name, self.kind = name, SOLVERS[name]
        self._scheduler = self.kind.scheduler.from_config(own.config, **self.kind.config)
        self._scheduler.set_timesteps(steps, device=device)
        self.timesteps = self._scheduler.timesteps
        if not schedule.flow and self.timesteps.max() >= most:
            raise ValueError(f"steps={steps} begins past the model's last timestep {most - 1}: use fewer steps")
        last = Level.of_bar(torch.as_tensor(getattr(self._scheduler, "final_alpha_cumprod", 1.0)).to(device))
        ends = [self.kind.end(self._scheduler, i) for i in range(len(self.timesteps))]
        self.starts = [schedule.level(t) for t in self.timesteps]
        self.ends = [schedule.level(t) if t >= 0 else last for t in ends]
        self._noisy = "generator" in inspect.signature(self._scheduler.step).parameters

    def fresh(self) -> "Solver":
        """The same without memory of another batch."""
        other = copy.copy(self)
        other._scheduler = copy.deepcopy(self._scheduler)
        return other

    def step(
        self, pred: torch.Tensor, i: int, x_t: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> torch.Tensor:
        """x_{t-1} of step i. A solver without memory is asked as if for the first time, so a step can be repeated."""
        scheduler = self._scheduler if self.kind.memory else copy.copy(self._scheduler)
        noise = {"generator": list(generators)} if self._noisy else {}
        return scheduler.step(pred, self.timesteps[i], x_t, return_dict=False, **noise)[0]

    def refuse(self, what: str, memory: bool = False, random: bool = False) -> None:
        """ValueError when the solver has a memory, or adds noise, and `what` cannot bear it; it names those that do."""
        if (memory and self.kind.memory) or (random and self.kind.random):
            able = [
                name
                for name, kind in SOLVERS.items()
                if kind.flow == self.kind.flow and not (memory and kind.memory) and not (random and kind.random)
            ]
            raise ValueError(f"the solver {self.name!r} cannot serve {what}: use solver={' or '.join(map(repr, able))}")
