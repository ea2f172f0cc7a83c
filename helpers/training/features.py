"""Training of the dense features: a tiny DINOv2 that finds the points of moved objects again.

A point of the first picture is compared with every pixel of the second, edited one; the softmax over those cosines is
to be a small Gaussian around the exact place. Both pictures are blurred and paled at random, each on its own.
"""

from math import log
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Dinov2Config

from helpers.backbones.backbone import Backbone
from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import SIDE
from helpers.miniature.world import render
from helpers.perception.features import Features, StemmedDinov2, correspond, extract, similarities
from helpers.training.estimates import as_estimates, soften
from helpers.training.loop import SEEDS, Scenes, fit
from helpers.training.mixed_dataset import MixedDataset
from helpers.training.motion import Moved, displace, edited_scene, edits

SEVERAL = 0.3  # probability that an object moves although another one was chosen
POINTS = 48  # on moved objects, per pair
ELSEWHERE = 16  # anywhere else
SPREAD = 1.0  # pixels, standard deviation of the wanted Gaussian
NEAR = 3.0  # pixels from the exact place that count as found


def build() -> StemmedDinov2:
    torch.manual_seed(SEEDS["dino"])
    config = Dinov2Config(
        hidden_size=112,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=SIDE,
        patch_size=4,
        use_mask_token=False,
        attn_implementation="sdpa",
    )
    return StemmedDinov2(config)


class Student(nn.Module):
    """The features and the temperature of the softmax that trains them."""

    def __init__(self):
        super().__init__()
        self.dino = build()
        self.sharpness = nn.Parameter(torch.tensor(log(20.0)))


def tracks(scene: Scene, pair: Moved, k: int, rng: np.random.Generator, elsewhere: int = 0):
    """Points (k + elsewhere, 2) of the scene and their places (k + elsewhere, 2) after the edit, pixels x then y.

    k random points lie on the moved objects, the rest anywhere else; all can be seen before and after.
    """
    owner, later = (np.full((SIDE, SIDE), -1) for _ in range(2))
    for labels, s in ((owner, scene), (later, pair.scene)):
        for i, mask in enumerate(render(s).visible):
            labels[mask] = i
    y, x = np.indices((SIDE, SIDE))
    there = np.stack([x, y]) + pair.flow.astype(int)
    inside = ((there >= 0) & (there < SIDE)).all(0)
    u, v = there.clip(0, SIDE - 1)
    seen = inside & (later[v, u] == owner)
    chosen = []
    for where, n in ((seen & pair.moved, k), (seen & ~pair.moved, elsewhere)):
        pixels = np.flatnonzero(where)
        chosen.append(pixels[rng.integers(len(pixels), size=n)])
    rows, columns = np.divmod(np.concatenate(chosen), SIDE)
    points = np.stack([columns, rows], 1)
    return points.astype(np.float32), there[:, rows, columns].T.astype(np.float32)


def view(scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """source and image (3, 64, 64) uint8 before and after the motion; points and places, see `tracks`."""
    pair = displace(scene, rng, SEVERAL)
    source, image = (render(s).image.transpose(2, 0, 1) for s in (scene, pair.scene))
    points, places = tracks(scene, pair, POINTS, rng, ELSEWHERE)
    return {"source": source, "image": image, "points": points, "places": places}


def loss(model, items, generator):
    """Cross-entropy of the softmax over all pixels with a Gaussian around the exact place."""
    where = model.sharpness.device
    items = {key: value.to(where) for key, value in items.items()}
    pictures = [soften(items[key].float() / 255, generator) for key in ("source", "image")]
    source, target = extract(model.dino, torch.cat(pictures)).chunk(2)
    cosines = similarities(source, target, items["points"], (SIDE, SIDE)).float()
    logits = (cosines * model.sharpness.exp()).flatten(2)
    grid = torch.arange(SIDE, device=where)
    dx, dy = (items["places"][..., i, None] - grid for i in range(2))
    wanted = (-(dy.square()[..., :, None] + dx.square()[..., None, :]) / (2 * SPREAD**2)).flatten(2).softmax(2)
    value = -(wanted * logits.log_softmax(2)).sum(2).mean()
    with torch.no_grad():
        best = logits[:, :POINTS].argmax(2)
        found = torch.stack([best % SIDE, best // SIDE], -1)
        near = (found - items["places"][:, :POINTS]).norm(dim=2) <= NEAR
    return value, {"pck": near.float().mean(), "sharpness": model.sharpness.exp()}


def train(folder: Path, backbone: Backbone, steps: tuple[int, int] = (400, 250), batch: int = 12) -> StemmedDinov2:
    """Two runs below `folder`: renders; then pairs of whose second pictures half are made once by models.

    Half of these were decoded from disturbed latents, the rest are mini-sd's x0_hat.
    """
    fresh = Scenes(SEEDS["dino"], view, steps[0] * batch)
    student = fit(Student(), fresh, loss, folder / "renders", steps[0], batch, lr=2e-3, ema=0.995)
    fresh = Scenes(SEEDS["dino"] + 100, view, steps[1] * batch)
    change = as_estimates(backbone, lambda i: edited_scene(fresh.seed, i, SEVERAL), fresh.seed)
    mixed = MixedDataset(fresh, min(1600, len(fresh) // 2), change)
    return fit(student.requires_grad_(True), mixed, loss, folder / "mixed", steps[1], batch, lr=7e-4, ema=0.99).dino


# --- held-out numbers -------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(features: Features, scenes: list[Scene], images: torch.Tensor, k: int = 16) -> dict[str, float]:
    """Points of renders of `scenes` looked for in `images` (n, 3, 64, 64), pictures of the same scenes after `edits`.

    k random points of every moved object, the same on every call. pck: share whose nearest neighbour lies within 3
    pixels of the exact place; distance: mean distance from it in pixels.
    """
    pairs = edits(scenes)
    where = next(features.parameters()).device
    source = torch.from_numpy(np.stack([render(s).image for s in scenes])).permute(0, 3, 1, 2).float() / 255
    found = [tracks(s, p, k, np.random.default_rng([1, i])) for i, (s, p) in enumerate(zip(scenes, pairs))]
    points, places = (torch.from_numpy(np.stack(rows)) for rows in zip(*found))
    distances = []
    for part in torch.arange(len(scenes)).split(20):
        a, b = (features(x[part].to(where)) for x in (source, images))
        got = correspond(a, b, points[part].to(where), (SIDE, SIDE)).cpu()
        distances.append((got - places[part]).norm(dim=2))
    distances = torch.cat(distances)
    return {"pck": float((distances <= NEAR).float().mean()), "distance": float(distances.mean())}
