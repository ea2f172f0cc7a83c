"""Training of the optical flow: a tiny RAFT on pairs of scenes between which objects moved.

Guidance compares a clean source with a blurry x0_hat, so the second picture of a pair is also blurred, rebuilt from
disturbed latents, or guessed by mini-sd.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision.models.optical_flow import RAFT

from helpers.backbones.backbone import Backbone
from helpers.miniature.scene import Scene
from helpers.miniature.world import render
from helpers.perception.flow import SMALLEST, Flow, flows, miniature
from helpers.training.estimates import as_estimates, soften
from helpers.training.loop import SEEDS, Scenes, fit
from helpers.training.mixed_dataset import MixedDataset
from helpers.training.motion import displace, edited_scene, edits

UPDATES = 4  # more bring nothing at 64 pixels
GAMMA = 0.8  # the weight of an update's error is GAMMA to the number of updates after it (Teed & Deng 2020)
FINE = 192  # pixels to which images are enlarged: a cell of RAFT is then 2.7 of the 64 pixels; 128, at first, is faster
SEVERAL = 0.3  # probability that an object moves although another one was chosen


def build() -> RAFT:
    torch.manual_seed(SEEDS["raft"])
    return miniature()


def view(scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """source and image (3, 64, 64) uint8 before and after the motion, flow (2, 64, 64), moved (64, 64) bool."""
    pair = displace(scene, rng, SEVERAL)
    source, image = (render(s).image.transpose(2, 0, 1) for s in (scene, pair.scene))
    return {"source": source, "image": image, "flow": pair.flow, "moved": pair.moved}


def loss(model, items, generator):
    """Distance to the truth after every update, in pixels; second pictures are blurred at random."""
    return distance(model, items, soften(items["image"].float() / 255, generator), power=1)


def exact_loss(model, items, generator, power: float = 0.5, smallest: int = SMALLEST):
    """The same for pictures as they are; below power 1 small errors count for more, hopeless ones for less."""
    return distance(model, items, items["image"].float() / 255, power, smallest)


def distance(model, items, target: torch.Tensor, power: float, smallest: int = SMALLEST):
    """L1 distance to the power `power`, summed over updates, the last most; moved pixels count five times."""
    where = next(model.parameters()).device
    source, truth, moved = (items[key].to(where) for key in ("source", "flow", "moved"))
    out = flows(model, source.float() / 255, target.to(where), UPDATES, smallest)
    weight = 1 + 4 * moved.float()
    errors = [((flow.float() - truth).abs().sum(1) + 0.01) ** power for flow in out]
    value = sum(GAMMA ** (UPDATES - 1 - k) * (weight * e).sum() / weight.sum() for k, e in enumerate(errors))
    with torch.no_grad():
        epe = (out[-1].float() - truth).norm(dim=1)
    return value, {"epe": epe.mean(), "epe_moving": epe[moved].mean()}


def train(folder: Path, backbone: Backbone, steps: tuple[int, int, int, int], batch: int) -> RAFT:
    """Four runs below `folder`: renders, blurred; for exactness, renders as they are and pictures made once by models;
    the same enlarged to FINE pixels; and once more with the distance itself as loss, which does not give up far ones.

    Half of the pictures made by models were decoded from disturbed latents, the rest are mini-sd's x0_hat.
    """

    def mixed(k):
        fresh = Scenes(SEEDS["raft"] + 100 * k, view, steps[k] * batch)
        change = as_estimates(backbone, lambda i: edited_scene(fresh.seed, i, SEVERAL), fresh.seed)
        return MixedDataset(fresh, min(1600 // k, len(fresh) // 2), change)

    fresh = Scenes(SEEDS["raft"], view, steps[0] * batch)
    raft = fit(build(), fresh, loss, folder / "renders", steps[0], batch, lr=1.5e-3, ema=0.995)
    raft = fit(raft.requires_grad_(True), mixed(1), exact_loss, folder / "mixed", steps[1], batch, lr=7e-4, ema=0.99)
    fine = partial(exact_loss, power=0.5, smallest=FINE)
    raft = fit(raft.requires_grad_(True), mixed(2), fine, folder / "fine", steps[2], batch, lr=5e-4, ema=0.99)
    far = partial(exact_loss, power=1, smallest=FINE)
    return fit(raft.requires_grad_(True), mixed(3), far, folder / "far", steps[3], batch, lr=5e-4, ema=0.99)


# --- held-out numbers -------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(flow: Flow, scenes: list[Scene], images: torch.Tensor) -> dict[str, float]:
    """The flow from renders of `scenes` to `images` (n, 3, 64, 64), pictures of the same scenes after `edits`.

    In pixels: epe_moving, the mean distance to the true motion over the visible source pixels of the moved objects;
    epe, over all pixels; motion, how far those objects moved (the error of a flow that is zero).
    """
    pairs = edits(scenes)
    source = torch.from_numpy(np.stack([render(s).image for s in scenes])).permute(0, 3, 1, 2).float() / 255
    truth = torch.from_numpy(np.stack([p.flow for p in pairs]))
    moved = torch.from_numpy(np.stack([p.moved for p in pairs]))
    where = next(flow.parameters()).device
    parts = [flow(a.to(where), b.to(where)).cpu() for a, b in zip(source.split(50), images.split(50))]
    epe = (torch.cat(parts) - truth).norm(dim=1)
    return {
        "epe_moving": float(epe[moved].mean()),
        "epe": float(epe.mean()),
        "motion": float(truth.norm(dim=1)[moved].mean()),
    }
