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
from helpers.miniature.scene import Scene
from helpers.miniature.world import random_scene
from helpers.training.muon import optimisers

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


DECAY = 0.3  # the last part of the steps


def trapezoid(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, a plateau, and a linear decay over the last 30 % of the steps.

    Up to the decay the schedule does not depend on `steps`: a run can be prolonged from a checkpoint of its plateau.
    """
    return min((step + 1) / warmup, 1, (steps - step) / (DECAY * steps))


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
    folder receives log.jsonl (one line every `every` steps) and state.pt. ValueError when the run in it began with
    other numbers: what it learned would belong to neither plan. Only `steps` may be another as long as the learning
    rate has not begun to fall by the old or the new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"steps": steps, "batch": batch, "lr": lr, "warmup": warmup, "ema": ema}
    where = device()
    model = model.to(where).train()
    average = deepcopy(model).eval().requires_grad_(False)
    optims = optimisers(model, lr)
    state_file, first = folder / "state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, map_location=where)
        _check_plan(state.get("plan"), plan, state["step"], folder)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for o, s in zip(optims, state["optimisers"]):
            o.load_state_dict(s)
        first = state["step"]
    _cut_log(folder / "log.jsonl", first)

    def save(step):
        state = {"model": model.state_dict(), "average": average.state_dict(), "step": step, "plan": plan}
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


def _check_plan(began: dict | None, plan: dict, step: int, folder: Path) -> None:
    """ValueError where a run that is to go on after `step` began with another plan."""
    if began is None:
        raise ValueError(
            f"the run in {folder} does not say with which numbers it began: remove the folder to begin anew"
        )
    free = {"steps"} if step <= (1 - DECAY) * min(began["steps"], plan["steps"]) else set()  # see trapezoid
    asked = {name: value for name, value in plan.items() if name not in free}
    other = [f"{name} {began[name]}, not {value}" for name, value in asked.items() if began[name] != value]
    if other:
        raise ValueError(
            f"the run in {folder} began with {', '.join(other)}: set these as they were to go on, or remove the folder "
            "to begin anew"
        )


def _cut_log(log: Path, last: int) -> None:
    """Drop what was logged after the checkpoint of step `last`, from which the run goes on and logs again."""
    if log.exists():
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        log.write_text("".join(line for line in lines if json.loads(line)["step"] <= last))


def history(folder: Path) -> list[dict]:
    """The logged lines of a run, for loss curves."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
