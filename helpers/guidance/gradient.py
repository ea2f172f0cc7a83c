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
    the gradients of methods with different strength rules."""

    eps: torch.Tensor
    grad_rms: torch.Tensor
    cosines: dict[str, torch.Tensor] = field(default_factory=dict)


def gradient_update(ctx: "Ctx", found: dict["Guidance", tuple[torch.Tensor, "Info"]]) -> Update:
    """sum over strength rules of rule(grad_{x_t} sum weight * loss); losses are summed over the batch, never averaged.

    found: each method's energy at ctx, with its graph to ctx.x_t. A gradient that is not finite counts 0 for its image:
    see `finite`.
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
        fine = finite(ctx, grad, ctx.index, {method.name: loss for method, loss in losses.items()})
        grad, total = torch.where(fine[:, None, None, None], grad, 0), torch.where(fine, total, 0)
        update.eps += rule.update(total, grad, ctx)
        update.grad_rms += rms(grad).flatten()
        name = "+".join(method.name for method in methods)
        for other, theirs in grads.items():
            update.cosines[f"{other}.{name}"] = F.cosine_similarity(theirs.flatten(1), grad.flatten(1))
        grads[name] = grad
    return update


def finite(ctx: "Ctx", grad: torch.Tensor, index: list[int], losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B,) bool: which of the images at these places of the run have a finite gradient. The others are named in
    ctx.skipped; in a strict run FloatingPointError is raised instead. losses: method -> (B,), for the words."""
    fine = grad.flatten(1).isfinite().all(1)
    for row in (~fine).nonzero().flatten().tolist():
        values = " and ".join(f"{name} (loss {loss[row].item():.4g})" for name, loss in losses.items())
        where = f"image {index[row]} (seed {ctx.job.seeds[index[row]]}), step {ctx.i} of {ctx.steps}"
        ctx.skipped.append(f"{where}: the gradient of {values} is not finite")
        if ctx.job.strict:
            cure = "lower the weight, clip the strength, or sample with strict=False"
            raise FloatingPointError(f"{ctx.skipped[-1]}: {cure}")
    return fine
