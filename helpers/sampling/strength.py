"""How far a gradient moves the prediction: eps' = eps + update(grad). One small value object per rule.

loss (B,) is the weighted sum of the losses, grad its gradient with respect to x_t, per image, both in float32 whatever
the model's precision. rms is the root mean square over one image's latent; eps itself has rms 1.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from helpers.sampling.settings import check, setting


def rms(x: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, 1) root mean square over everything but the batch."""
    return x.square().mean(dim=tuple(range(1, x.ndim)), keepdim=True).sqrt()


def positive(x: torch.Tensor) -> torch.Tensor:
    """x, or the smallest normal number where it vanishes: an image without a gradient is left alone."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


@dataclass(frozen=True)
class Strength:
    """scale: see the rule. clip: the largest rms that the update of an image may have (None: no limit). group: methods
    whose rules are equal and name the same group share one gradient, of the sum of their losses; "" shares none."""

    scale: float = setting(1.0, low=0, high=1e4)
    clip: float | None = setting(None, low=1e-6, high=1e4)
    group: str = ""

    def __post_init__(self):
        check(self)

    @staticmethod
    def of(data: Mapping) -> "Strength":
        """Of {"rule": a name in STRENGTHS, "scale": ..., "clip": ..., "group": ...}."""
        rest = dict(data)
        rule = rest.pop("rule", None)
        if rule not in STRENGTHS:
            raise ValueError(f"there is no strength rule {rule!r}: use one of {', '.join(STRENGTHS)}")
        return STRENGTHS[rule](**rest)

    def settings(self) -> dict:
        return {"rule": type(self).__name__.lower(), **asdict(self)}

    def update(self, loss: torch.Tensor, grad: torch.Tensor, ctx) -> torch.Tensor:
        """(B, C, h, w), to be added to eps."""
        update = self.scaled(loss, grad, ctx)
        return update if self.clip is None else update * (self.clip / positive(rms(update))).clamp(max=1)

    def scaled(self, loss, grad, ctx):
        raise NotImplementedError(f"{type(self).__name__} is no strength rule: use {', '.join(STRENGTHS)}")


class Raw(Strength):
    """The paper's weights as they are: scale * sigma_t * grad."""

    def scaled(self, loss, grad, ctx):
        return self.scale * ctx.level.sigma * grad


class Exploding(Strength):
    """As Raw, with the noise level of the variance-exploding view: scale * sigma_t / alpha_t * grad.

    What a weight means that was found with a solver on x_t / alpha_t, such as LMS.
    """

    def scaled(self, loss, grad, ctx):
        return self.scale * ctx.level.ratio * grad


class Unit(Strength):
    """Direction only: scale * sigma_t * grad / rms(grad)."""

    def scaled(self, loss, grad, ctx):
        return self.scale * ctx.level.sigma * grad / positive(rms(grad))


class Polyak(Strength):
    """As Unit, but no further than to where the linearised loss is 0 (Polyak 1969); for losses whose best value is 0.

    An update u of eps moves the latent by -k u: in a step of DDIM or Euler k = sigma_t alpha_{t-1} / alpha_t -
    sigma_{t-1}, where x_t itself is refined k = sigma_t. To first order that lowers the loss by k <grad, u>:

        u = grad * min(scale sigma_t / rms(grad), loss / (k |grad|^2))

    Unit goes on kicking an image whose objects already lie where they should.
    """

    def scaled(self, loss, grad, ctx):
        size, numel = positive(rms(grad)), grad[0].numel()
        to_zero = loss.clamp(min=0)[:, None, None, None] / positive(ctx.reach * numel * size)
        return torch.minimum(self.scale * ctx.level.sigma, to_zero) * grad / size


class Matched(Strength):
    """As large as `scale` times what classifier-free guidance changes (FreeDoM, Yu et al. 2023):

    rho = scale * rms(eps_cfg - eps_uncond) / rms(grad); update = rho * grad.
    """

    def scaled(self, loss, grad, ctx):
        if "uncond" not in ctx.preds:
            raise ValueError("Matched measures the gradient by the CFG update: put CFG(...) into the guidance list")
        uncond = ctx.backbone.schedule.to_eps(ctx.preds["uncond"], ctx.x_t, ctx.level)
        return self.scale * (rms((ctx.eps - uncond).float()) / positive(rms(grad))).detach() * grad


STRENGTHS = {"raw": Raw, "exploding": Exploding, "unit": Unit, "polyak": Polyak, "matched": Matched}
