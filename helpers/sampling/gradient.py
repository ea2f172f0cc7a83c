"""From the energies of a step to the change of eps: one backward for all methods that ask to share a gradient."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from helpers.sampling.hooks import Ctx, EnergyGuidance
from helpers.sampling.strength import rms

# Losses are this much larger on their way back through a model in float16, whose smallest number is 6e-8.
LOSS_SCALE = {torch.float16: 2.0**10}


@dataclass
class Update:
    """eps: what is added to eps, (B, C, h, w) float32. grad_rms (B,): size of the gradient. cosines: "dca.dga" -> (B,),
    between gradients that are not shared."""

    eps: torch.Tensor
    grad_rms: torch.Tensor
    cosines: dict[str, torch.Tensor] = field(default_factory=dict)


def gradient_update(ctx: Ctx) -> Update:
    """sum over groups of rule(grad_{x_t} sum weight * loss); losses are summed over the batch, never averaged.

    ctx.losses: each method's energy at ctx, with its graph to ctx.x_t. A loss or gradient that is not finite counts 0
    for its image: see `Ctx.finite`. ValueError for a loss that is not one number per image, or that does not depend on
    x_t.
    """
    groups: dict = {}
    for method in ctx.losses:
        groups.setdefault(method.strength if method.strength.group else method, []).append(method)
    size, grads = LOSS_SCALE.get(ctx.x_t.dtype, 1.0), {}
    update = Update(torch.zeros_like(ctx.x_t, dtype=_wide(ctx)), torch.zeros(len(ctx.x_t), device=ctx.x_t.device))
    for n, methods in enumerate(groups.values(), 1):
        losses = {method: _checked(method, ctx) for method in methods}
        weights = [torch.full_like(loss, method.weight * size) for method, loss in losses.items()]
        (grad,) = torch.autograd.grad(list(losses.values()), ctx.x_t, weights, retain_graph=n < len(groups))
        ctx.cost.backwards += len(ctx.index)
        grad, total = (
            grad.to(_wide(ctx)) / size,
            sum(m.weight * loss.detach().to(_wide(ctx)) for m, loss in losses.items()),
        )
        words = " and ".join(f"{method.name}'s" for method in methods)
        cure = "lower the weight or clip the strength; its update was skipped"
        fine = ctx.finite(total, f"{words} loss", cure)
        grad = _kept(grad, fine)  # named once: a loss that is not finite has a gradient that is not
        fine = fine & ctx.finite(grad, f"{words} gradient", cure)
        grad, total = _kept(grad, fine), _kept(total, fine)
        change = methods[0].strength.update(total, grad, ctx)
        update.eps += _kept(change, ctx.finite(change, f"{words} update", cure))
        update.grad_rms += rms(grad).flatten().float()
        name = "+".join(method.name for method in methods)
        for other, theirs in grads.items():
            update.cosines[f"{other}.{name}"] = F.cosine_similarity(theirs.flatten(1), grad.flatten(1))
        grads[name] = grad
    return update


def _kept(values: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """(B, ...): 0 for images that are not fine (B,)."""
    return torch.where(fine.view(-1, *[1] * (values.ndim - 1)), values, 0)


def _wide(ctx: Ctx) -> torch.dtype:
    """float32, or more where the model has more."""
    return torch.promote_types(ctx.x_t.dtype, torch.float32)


def _checked(method: EnergyGuidance, ctx: Ctx) -> torch.Tensor:
    loss = ctx.losses[method][0]
    if loss.shape != (len(ctx.index),):
        raise ValueError(
            f"the loss of {method.name} has the shape {tuple(loss.shape)} for {len(ctx.index)} images: return one "
            "number per image, such as value.flatten(1).mean(1)"
        )
    if not loss.requires_grad:
        raise ValueError(f"the loss of {method.name} does not depend on x_t: compute it from ctx.image or ctx.x0_hat")
    return loss
