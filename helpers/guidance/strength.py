"""How far a gradient moves the prediction: eps' = eps + update(grad). One small value object per rule.

loss (B,) is the weighted sum of the losses, grad its gradient with respect to x_t, per image. sigma_t = sqrt(1 -
alpha_bar). rms is the root mean square over one image's latent; eps itself has rms 1.
"""

from dataclasses import dataclass

import torch


def rms(x: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, 1) root mean square over everything but the batch."""
    return x.square().mean(dim=tuple(range(1, x.ndim)), keepdim=True).sqrt()


def _positive(x: torch.Tensor) -> torch.Tensor:
    """x, or the smallest normal number where it vanishes: an image without a gradient is left alone."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


@dataclass(frozen=True)
class Strength:
    """scale: see the rule. clip: the largest rms that the update of an image may have (None: no limit)."""

    scale: float = 1.0
    clip: float | None = None

    def update(self, loss: torch.Tensor, grad: torch.Tensor, ctx) -> torch.Tensor:
        """(B, 4, h, w), to be added to eps."""
        update = self.scaled(loss, grad, ctx)
        return update if self.clip is None else update * (self.clip / _positive(rms(update))).clamp(max=1)

    def scaled(self, loss, grad, ctx):
        raise NotImplementedError(f"{type(self).__name__} is no strength rule: use {', '.join(STRENGTHS)}")


class Raw(Strength):
    """The paper's weights as they are: scale * sigma_t * grad."""

    def scaled(self, loss, grad, ctx):
        return self.scale * ctx.sigma * grad


class Exploding(Strength):
    """As Raw, with the noise level of the variance-exploding view: scale * sqrt((1 - alpha_bar) / alpha_bar) * grad.

    What a weight means that was found with a solver on x_t / sqrt(alpha_bar), such as LMS.
    """

    def scaled(self, loss, grad, ctx):
        return self.scale * ctx.noise_ratio * grad


class Unit(Strength):
    """Direction only: scale * sigma_t * grad / rms(grad)."""

    def scaled(self, loss, grad, ctx):
        return self.scale * ctx.sigma * grad / _positive(rms(grad))


class Polyak(Strength):
    """As Unit, but no further than to where the linearised loss is 0 (Polyak 1969); for losses whose best value is 0.

    DDIM turns an update u of eps into -k u of x_{t-1}, k = sigma_t sqrt(alpha_bar_{t-1} / alpha_bar_t) - sigma_{t-1},
    which to first order lowers the loss by k <grad, u>: u = grad * min(scale sigma_t / rms(grad), loss / (k |grad|^2)).
    Unit goes on kicking an image whose objects already lie where they should.
    """

    def scaled(self, loss, grad, ctx):
        k = ctx.sigma * (ctx.alpha_bar_next / ctx.alpha_bar).sqrt() - (1 - ctx.alpha_bar_next).sqrt()
        size, numel = _positive(rms(grad)), grad[0].numel()
        to_zero = loss.clamp(min=0)[:, None, None, None] / _positive(k * numel * size)
        return torch.minimum(self.scale * ctx.sigma, to_zero) * grad / size


class Matched(Strength):
    """As large as `scale` times what classifier-free guidance changes (FreeDoM, Yu et al. 2023):

    rho = scale * rms(eps_cfg - eps_uncond) / rms(grad); update = rho * grad.
    """

    def scaled(self, loss, grad, ctx):
        if "uncond" not in ctx.preds:
            raise ValueError("Matched measures the gradient by the CFG update: put CFG(...) into the guidance list")
        uncond = ctx.backbone.to_eps(ctx.preds["uncond"], ctx.x_t, ctx.t)
        return self.scale * (rms(ctx.eps - uncond) / _positive(rms(grad))).detach() * grad


STRENGTHS = {"raw": Raw, "exploding": Exploding, "unit": Unit, "polyak": Polyak, "matched": Matched}
