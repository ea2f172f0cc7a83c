"""Noise levels and parameterisations, once for every model: x_t = alpha_t x0 + sigma_t eps.

    Stable Diffusion    alpha = sqrt(alpha_bar_t), sigma = sqrt(1 - alpha_bar_t)          Ho et al. 2020
    flow matching       alpha = 1 - s, sigma = s, s = t / T                               Lipman et al. 2023

Every denoiser predicts something affine in x0 and eps, so what it says can be read as either:

    epsilon    eps
    velocity   v = alpha eps - sigma x0      (Salimans & Ho 2022)
    flow       u = eps - x0                  (rectified flow, Liu et al. 2023)

At alpha = 0 (zero terminal SNR, s = 1) x_t is pure noise: eps is x_t itself and no change of it says anything of x0.
"""

from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin

LOUDEST = 15.0  # noise ratios are cut here: Stable Diffusion begins at 14.6, zero terminal SNR and flows at infinity


@dataclass(frozen=True)
class Level:
    """One noise level. alpha, sigma: scalars in [0, 1]."""

    alpha: torch.Tensor
    sigma: torch.Tensor

    @classmethod
    def of_bar(cls, bar: torch.Tensor) -> "Level":
        """Of alpha_bar, a scalar in [0, 1]."""
        return cls(bar.sqrt(), (1 - bar).sqrt())

    @property
    def ratio(self) -> torch.Tensor:
        """sigma / alpha, the sigma of variance-exploding models; at most LOUDEST."""
        return self.sigma / self.alpha.clamp(min=1 / LOUDEST)

    def mix(self, x0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """x_t of a clean latent and noise."""
        return self.alpha * x0 + self.sigma * eps


class Epsilon:
    """The model predicts eps. It says nothing where alpha is 0."""

    @staticmethod
    def of(x0, eps, level):
        return eps

    @staticmethod
    def to_eps(pred, x_t, level):
        return pred

    @staticmethod
    def to_x0(pred, x_t, level):
        return (x_t - level.sigma * pred) / level.alpha

    @staticmethod
    def shift(pred, delta, level):
        return pred + delta


class Velocity:
    """The model predicts v = alpha eps - sigma x0."""

    @staticmethod
    def of(x0, eps, level):
        return level.alpha * eps - level.sigma * x0

    @staticmethod
    def to_eps(pred, x_t, level):
        return level.alpha * pred + level.sigma * x_t

    @staticmethod
    def to_x0(pred, x_t, level):
        return level.alpha * x_t - level.sigma * pred

    @staticmethod
    def shift(pred, delta, level):
        return pred + delta / level.alpha


class Flow(Velocity):
    """The model predicts u = eps - x0, with alpha + sigma = 1."""

    @staticmethod
    def of(x0, eps, level):
        return eps - x0

    @staticmethod
    def to_eps(pred, x_t, level):
        return x_t + level.alpha * pred

    @staticmethod
    def to_x0(pred, x_t, level):
        return x_t - level.sigma * pred


PREDICTIONS = {"epsilon": Epsilon, "v_prediction": Velocity, "flow_prediction": Flow}


class Schedule:
    """alpha and sigma over the model's timesteps, and how its predictions are read. One per model.

    flow: is it a model of flow matching. ValueError for a scheduler whose noise levels or prediction_type are of
    another kind, and for a model of eps whose last timestep has alpha 0.
    """

    def __init__(self, scheduler: SchedulerMixin, device: torch.device):
        name, kind = type(scheduler).__name__, scheduler.config.get("prediction_type", "flow_prediction")
        bars = getattr(scheduler, "alphas_cumprod", None)
        self.flow = name.startswith("FlowMatch")
        known = ["flow_prediction"] if self.flow else ["epsilon", "v_prediction"]
        if (bars is None) != self.flow or kind not in known:
            raise ValueError(
                f"the model's {name} with prediction_type {kind!r} is not served: load it with a "
                "DDIMScheduler of prediction_type 'epsilon' or 'v_prediction', or a FlowMatchEulerDiscreteScheduler"
            )
        if scheduler.config.get("use_dynamic_shifting"):
            raise ValueError(
                f"the model's {name} shifts its noise levels by the size of the picture (use_dynamic_shifting), which "
                "is not served: load the model with a scheduler of a fixed shift"
            )
        self.prediction = PREDICTIONS[kind]
        self.timesteps: int = scheduler.config.num_train_timesteps
        self._bars = None if bars is None else bars.to(device)
        self._device = device
        if self.prediction is Epsilon and float(bars[-1]) < 1e-6:
            raise ValueError(
                "the model predicts eps but its last timestep has alpha 0, where eps says nothing of x0: "
                "use a scheduler without rescale_betas_zero_snr, or a model of v_prediction"
            )

    def level(self, t: torch.Tensor | float) -> Level:
        """The noise level at timestep t in [0, timesteps]; below 0 there is no noise."""
        if self._bars is None:
            s = torch.as_tensor(t, dtype=torch.float32, device=self._device) / self.timesteps
            return Level(1 - s, s)
        return Level.of_bar(self._bars[int(t)] if t >= 0 else torch.ones((), device=self._device))

    def to_eps(self, pred: torch.Tensor, x_t: torch.Tensor, level: Level) -> torch.Tensor:
        """eps that a prediction (B, C, h, w) at x_t stands for."""
        return self.prediction.to_eps(pred, x_t, level)

    def to_x0(self, pred: torch.Tensor, x_t: torch.Tensor, level: Level) -> torch.Tensor:
        """x0_hat = (x_t - sigma eps) / alpha."""
        return self.prediction.to_x0(pred, x_t, level)

    def of(self, x0: torch.Tensor, eps: torch.Tensor, level: Level) -> torch.Tensor:
        """What an exact model would predict at alpha x0 + sigma eps."""
        return self.prediction.of(x0, eps, level)

    def shift(self, pred: torch.Tensor, delta: torch.Tensor, level: Level) -> torch.Tensor:
        """The prediction of eps + delta, so that x0_hat moves by -sigma / alpha delta; exactly `pred` at delta 0, and
        at alpha 0, where eps is not the model's to say."""
        return pred if level.alpha == 0 else self.prediction.shift(pred, delta, level)


def renoise(x_s: torch.Tensor, s: Level, t: Level, noise: torch.Tensor) -> torch.Tensor:
    """x_t ~ q(x_t | x_s), from less noise to more: (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t / alpha_s)^2
    sigma_s^2) z."""
    kept = t.alpha / s.alpha
    return kept * x_s + (t.sigma.square() - (kept * s.sigma).square()).clamp(min=0).sqrt() * noise
