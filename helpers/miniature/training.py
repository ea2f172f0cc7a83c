"""What the training of every miniature model shares: fresh scenes, an optimiser, and a loop that resumes.

The same command runs on two CPU cores and on a GPU. A run is a folder of checkpoints: interrupted, it continues from
the last one; finished, it returns at once. It lies outside the outs of the DVC stage, because DVC deletes outs.
"""

import json
import os
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from helpers.files import writing
from helpers.miniature.world import Scene, random_scene

SEEDS = {
    "autoencoder": 1,
    "mini-sd": 2,
    "guide_segmenter": 3,
    "judge": 4,
    "text": 5,
    "raft": 6,
    "sam": 7,
    "dino": 8,
    "clip": 11,
    "judge_clip": 12,
    "held_out": 99,
}


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Scenes(Dataset):
    """An endless supply of scenes: item i is drawn from the seed (seed, i), so a run resumes at any item.

    view: turns a scene and its random generator into what the model trains on (arrays, tensors or text).
    """

    def __init__(self, seed: int, view: Callable[[Scene, np.random.Generator], object], length: int, **kinds):
        self.seed, self.view, self.length, self.kinds = seed, view, length, kinds

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        rng = np.random.default_rng([self.seed, i])
        return self.view(random_scene(rng, **self.kinds), rng)


def batches(dataset: Dataset, size: int, first: int = 0, workers: int | None = None):
    """Batches of consecutive items, starting with batch number `first`. A CPU run renders in its own process."""
    workers = (os.cpu_count() // 2 if torch.cuda.is_available() else 0) if workers is None else workers
    order = range(first * size, len(dataset))
    return DataLoader(dataset, size, sampler=order, num_workers=workers, drop_last=True)


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


def trapezoid(step: int, steps: int, warmup: int, decay: float = 0.3) -> float:
    """Linear warm-up, a plateau, and a linear decay over the last 30 % of the steps.

    Up to the decay the schedule does not depend on `steps`: a run can be prolonged from a checkpoint of its plateau.
    """
    return min((step + 1) / warmup, 1, (steps - step) / (decay * steps))


def fit(
    model: nn.Module,
    data: Dataset,
    loss: Callable[[nn.Module, object, torch.Generator], tuple[torch.Tensor, dict]],
    folder: Path,
    steps: int,
    batch: int,
    lr: float,
    warmup: int = 100,
    ema: float = 0.0,
    every: int = 50,
    checkpoint_minutes: float = 5,
) -> nn.Module:
    """Train `model` for `steps` batches, or continue the run in `folder`; returns the (averaged) model in eval mode.

    loss: (model, batch, generator) -> (scalar, values to log). Gradients are clipped at norm 1.
    folder receives log.jsonl (one line every `every` steps) and state.pt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    where = device()
    model = model.to(where).train()
    average = deepcopy(model).eval().requires_grad_(False)
    optims = optimisers(model, lr)
    state_file, first = folder / "state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, map_location=where)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for o, s in zip(optims, state["optimisers"]):
            o.load_state_dict(s)
        first = state["step"]

    def save(step):
        state = {"model": model.state_dict(), "average": average.state_dict(), "step": step}
        state["optimisers"] = [o.state_dict() for o in optims]
        with writing(state_file, "wb") as file:
            torch.save(state, file)

    kept = saved = time.time()
    recent: dict[str, list[float]] = {}  # since the last line of the log, or since the run went on
    step = first
    for step, items in enumerate(batches(data, batch, first) if first < steps else [], first + 1):
        generator = torch.Generator().manual_seed(step)
        for o in optims:
            for group in o.param_groups:
                group["lr"] = lr * trapezoid(step - 1, steps, warmup)
        with torch.autocast(where.type, torch.bfloat16):
            value, parts = loss(model, items, generator)
        value.backward()
        parts["grad_norm"] = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optims:
            o.step()
            o.zero_grad(set_to_none=True)
        decay = min(ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, p in zip(average.state_dict().values(), model.state_dict().values()):
                a.lerp_(p, 1 - decay) if a.is_floating_point() else a.copy_(p)
        for key, part in {"loss": value, **parts}.items():
            recent.setdefault(key, []).append(float(part.detach()))
        if step % every == 0:
            means = {key: round(sum(values) / len(values), 5) for key, values in recent.items()}
            line = {"step": step, "seconds": round(time.time() - kept, 1), **means}
            with (folder / "log.jsonl").open("a") as log:
                print(json.dumps(line), file=log)
            kept, recent = time.time(), {}
        if time.time() - saved > 60 * checkpoint_minutes:
            save(step)
            saved = time.time()
        if step >= steps:
            break
    save(step)
    return average.eval()


def history(folder: Path) -> list[dict]:
    """The logged lines of a run, for loss curves."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
