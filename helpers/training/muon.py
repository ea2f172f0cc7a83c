"""The optimisers of a training: Muon for matrices, AdamW for the rest."""

import torch
from torch import nn


def orthogonalise(g: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix (Jordan et al. 2024, "Muon").

    g: (m, n). Singular values end between about .7 and 1.2; five steps of X <- aX + b(XX^T)X + c(XX^T)^2 X.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    if x.size(0) > x.size(1):
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        xxt = x @ x.T
        x = torch.addmm(x, torch.addmm(xxt, xxt, xxt, beta=b, alpha=c), x, beta=a)
    return (x.T if g.size(0) > g.size(1) else x).type_as(g)


class Muon(torch.optim.Optimizer):
    """Momentum whose update of every matrix is orthogonalised; convolutions are matrices (out, in * kernel).

    torch.optim.Muon takes two-dimensional parameters only; half of a U-Net is convolutions.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"]).flatten(1)
                update = orthogonalise(update) * 0.2 * max(update.shape) ** 0.5  # the rms of an AdamW update
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"])


def optimisers(model: nn.Module, lr: float, weight_decay: float = 0.01) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices and convolutions, AdamW for embeddings, norms, biases and the thin ends."""
    inner = {p for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d) for p in [m.weight]}
    inner = {p for p in inner if p.requires_grad and min(p.flatten(1).shape) >= 16}
    rest = [p for p in model.parameters() if p.requires_grad and p not in inner]
    matrices = [p for p in model.parameters() if p in inner]
    adam = torch.optim.AdamW(rest, lr, betas=(0.9, 0.98), weight_decay=weight_decay)
    return [Muon(matrices, lr, weight_decay=weight_decay), adam]
