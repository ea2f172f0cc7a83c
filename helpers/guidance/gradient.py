"""From the energies of a step to the change of eps: one backward for all methods that share a strength rule."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from helpers.guidance.strength import rms

if TYPE_CHECKING:
    from helpers.guidance.base import Ctx, Guidance, Info


@dataclass
class Update:
    """eps: what is added to eps, (B, 4, h, w). grad_rms (B,): size of the gradient. cosines: "dca.dga" -> (B,), between
    the gradients of methods with different strength rules. skipped: what was not added, in words."""

    eps: torch.Tensor
    grad_rms: torch.Tensor
    cosines: dict[str, torch.Tensor] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def gradient_update(ctx: "Ctx", found: dict["Guidance", tuple[torch.Tensor, "Info"]], strict: bool) -> Update:
    """sum over strength rules of rule(grad_{x_t} sum weight * loss); losses are summed over the batch, never averaged.

    found: each method's energy at ctx, with its graph to ctx.x_t. A gradient that is not finite counts 0 for its image
    and is named in `skipped`; strict raises FloatingPointError instead.
    """
    by_rule: dict = {}
    for method in found:
        by_rule.setdefault(method.strength, []).append(method)
    grads: dict[str, torch.Tensor] = {}
    update = Update(torch.zeros_like(ctx.x_t), torch.zeros(len(ctx.x_t), device=ctx.x_t.device))
    for n, (rule, methods) in enumerate(by_rule.items(), 1):
        losses = {method: found[method][0] for method in methods}
        weights = [torch.full_like(loss, method.weight) for method, loss in losses.items()]
        (grad,) = torch.autograd.grad(list(losses.values()), ctx.x_t, weights, retain_graph=n < len(by_rule))
        ctx.cost.backwards += len(ctx.index)
        total = sum(method.weight * loss.detach() for method, loss in losses.items())
        bad = ~grad.flatten(1).isfinite().all(1)
        if bad.any():
            update.skipped += [_describe(ctx, row, losses) for row in bad.nonzero().flatten().tolist()]
            if strict:
                cure = "lower the weight, clip the strength, or sample with strict=False"
                raise FloatingPointError(f"{update.skipped[0]}: {cure}")
            grad, total = torch.where(bad[:, None, None, None], 0, grad), torch.where(bad, 0, total)
        update.eps += rule.update(total, grad, ctx)
        update.grad_rms += rms(grad).flatten()
        name = "+".join(method.name for method in methods)
        for other, theirs in grads.items():
            update.cosines[f"{other}.{name}"] = F.cosine_similarity(theirs.flatten(1), grad.flatten(1))
        grads[name] = grad
    return update


def _describe(ctx, row, losses) -> str:
    values = " and ".join(f"{method.name} (loss {loss[row].item():.4g})" for method, loss in losses.items())
    image = ctx.index[row]
    where = f"image {image} (seed {ctx.job.seeds[image]}), step {ctx.i} of {ctx.steps}"
    return f"{where}: the gradient of {values} is not finite"
