"""Gradient descent on x_t before a step: what attention methods do that move the latents instead of the prediction."""

from collections.abc import Callable

import torch

from helpers.attention import Layers, Recorded, attention
from helpers.guidance.base import Ctx
from helpers.guidance.gradient import finite

Loss = Callable[[Recorded, list[int]], torch.Tensor]  # attention of the images at these places of the run -> (B,)


def descend(
    ctx: Ctx, name: str, layers: Layers, loss: Loss, rate: float | torch.Tensor, most: int = 1, above: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t <- x_t - rate * grad loss, up to `most` times and for each image only while its loss is larger than `above`.

    name: whose loss it is. Every evaluation is one of the prompt's branch alone; an image whose gradient is not finite
    moves no further, see `helpers.guidance.gradient.finite`. Returns x_t (B, 4, h, w) and the first loss (B,).
    """
    x_t, rows = ctx.x_t.detach().clone(), list(range(len(ctx.index)))
    first = torch.zeros(len(rows), device=x_t.device)
    for n in range(most):
        moved = x_t[rows].requires_grad_()
        index = [ctx.index[row] for row in rows]
        with torch.enable_grad(), attention(ctx.backbone.pipe.unet, moved.shape[-2:], len(rows), [layers]) as seen:
            ctx.backbone.predict(moved, ctx.t, {key: value[index] for key, value in ctx.job.text.items()})
            losses = loss(seen, index)
            (grad,) = torch.autograd.grad(losses.sum(), moved)
        ctx.cost.forwards += len(rows)
        ctx.cost.backwards += len(rows)
        if n == 0:
            first = losses.detach()
        going = finite(ctx, grad, index, {name: losses}) & (losses.detach() > above)
        rows = [row for row, on in zip(rows, going.tolist()) if on]
        if not rows:
            break
        x_t[rows] -= rate * grad[going]
    return x_t, first
