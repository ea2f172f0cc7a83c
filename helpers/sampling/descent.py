"""Gradient descent on x_t before a step: what attention methods do that move the latents instead of the prediction."""

from collections.abc import Callable

import torch

from helpers.backbones.attention import Layers, Recorded
from helpers.sampling.gradient import LOSS_SCALE
from helpers.sampling.hooks import Ctx

Loss = Callable[[Recorded, list[int]], torch.Tensor]  # attention of the images at these places of the run -> (B,)


def descend(
    ctx: Ctx,
    name: str,
    layers: Layers,
    loss: Loss,
    rate: float | torch.Tensor,
    most: int = 1,
    above: float = 0.0,
    going: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t <- x_t - rate * grad loss, up to `most` times and for each image until its loss is at most `above`: as in the
    authors' loops, the gradient of the evaluation that finds that is still used.

    name: whose loss it is. going (B,) bool: images that move at all. Every evaluation is one of the prompt's branch
    alone; an image whose gradient is not finite moves no further, see `Ctx.finite`. Returns x_t (B, C, h, w) and the
    first loss (B,), 0 where nothing was evaluated.
    """
    x_t = ctx.x_t.detach().clone()
    rows = [row for row in range(len(ctx.index)) if going is None or going[row]]
    first, size = torch.zeros(len(x_t), device=x_t.device), LOSS_SCALE.get(x_t.dtype, 1.0)
    for n in range(most if rows else 0):
        moved = x_t[rows].requires_grad_()
        index = [ctx.index[row] for row in rows]
        with torch.enable_grad(), ctx.backbone.attention(len(rows), [layers]) as seen:
            ctx.backbone.predict(moved, ctx.t, {key: value[index] for key, value in ctx.job.text.items()})
            losses = loss(seen, index)
            (grad,) = torch.autograd.grad(size * losses.sum(), moved)
        grad = grad.to(torch.promote_types(grad.dtype, torch.float32)) / size
        ctx.cost.forwards += len(rows)
        ctx.cost.backwards += len(rows)
        losses = losses.detach()
        if n == 0:
            first[rows] = losses.to(first)
        fine = ctx.finite(grad, f"{name}'s gradient", "lower the scale; its update was skipped", index)
        x_t[rows] -= (rate * torch.where(fine[:, None, None, None], grad, 0)).to(x_t.dtype)
        rows = [row for row, on in zip(rows, (fine & (losses > above)).tolist()) if on]
        if not rows:
            break
    return x_t, first
