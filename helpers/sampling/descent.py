"""Gradient descent on x_t before a step: what attention methods do that move the latents instead of the prediction."""

from collections.abc import Callable

import torch

from helpers.backbones.attention import Layers, Recorded
from helpers.sampling.gradient import LOSS_SCALE
from helpers.sampling.hooks import Ctx

Loss = Callable[[Recorded, list[int]], torch.Tensor]  # attention of the images at these places of the run -> (B,)


def descend(
    ctx: Ctx, name: str, layers: Layers, loss: Loss, rate: float | torch.Tensor, most: int = 1, above: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t <- x_t - rate * grad loss, up to `most` times and for each image only while its loss is larger than `above`.

    name: whose loss it is. Every evaluation is one of the prompt's branch alone; an image whose gradient is not finite
    moves no further, see `Ctx.finite`. Returns x_t (B, C, h, w) and the first loss (B,).
    """
    x_t, rows = ctx.x_t.detach().clone(), list(range(len(ctx.index)))
    first, size = torch.zeros(len(rows), device=x_t.device), LOSS_SCALE.get(x_t.dtype, 1.0)
    for n in range(most):
        moved = x_t[rows].requires_grad_()
        index = [ctx.index[row] for row in rows]
        with torch.enable_grad(), ctx.backbone.attention(len(rows), [layers]) as seen:
            ctx.backbone.predict(moved, ctx.t, {key: value[index] for key, value in ctx.job.text.items()})
            losses = loss(seen, index)
            (grad,) = torch.autograd.grad(size * losses.sum(), moved)
        grad = grad.to(torch.promote_types(grad.dtype, torch.float32)) / size
        ctx.cost.forwards += len(rows)
        ctx.cost.backwards += len(rows)
        if n == 0:
            first = losses.detach()
        going = ctx.finite(grad, f"{name}'s gradient", "lower the scale; its update was skipped", index)
        going = going & (losses.detach() > above)
        rows = [row for row, on in zip(rows, going.tolist()) if on]
        if not rows:
            break
        x_t[rows] -= (rate * grad[going]).to(x_t.dtype)
    return x_t, first
