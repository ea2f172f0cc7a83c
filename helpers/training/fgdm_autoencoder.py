"""The autoencoder of FG-DM's factors: mini-sd's, taught to keep conditions (`helpers.miniature.maps`), too.

mini-sd's own turns every map into the seven colours and five backgrounds that it knows. The latents of scenes stay
where they were, so that one latent space holds pictures and their conditions.
"""

from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from helpers.factor_graph.reading import objects, recall
from helpers.miniature.maps import MAPS, segmentation
from helpers.miniature.scene import Scene
from helpers.miniature.world import render
from helpers.training.autoencoder import reconstruct, to_tensor
from helpers.training.loop import Scenes, fit

SEED = 21
SHARES = {"segmentation": 0.4, "depth": 0.2, "normals": 0.2, "sketch": 0.2}  # of the maps that are trained on


def view(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """(2, 64, 64, 3) uint8: the picture and one of its maps."""
    drawn = render(scene)
    name = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    return np.stack([drawn.image, MAPS[name](scene, drawn)])


def loss(old: AutoencoderKL):
    """Reconstruction (L1 + 3 squared error) of pictures, maps and maps at half the size, + 2 |z - z_old|^2 of the
    pictures' latents, + the Kullback-Leibler term with which mini-sd's autoencoder was trained."""

    def value(model, items, generator):
        x = to_tensor(items.flatten(0, 1)).to(model.device)
        x = x.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)  # first the pictures, then their maps
        half = len(x) // 2
        with torch.no_grad():
            target = old.encode(x[:half]).latent_dist.mean
        distance, parts, kl = 0, {}, 0
        for name, part in (("full", x), ("half", x[half:, :, ::2, ::2])):
            posterior = model.encode(part).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(part.device)
            y = model.decode(posterior.mean + posterior.std * noise).sample.float()
            parts[name] = (y - part).abs().mean() + 3 * F.mse_loss(y, part)
            distance, kl = distance + parts[name], kl + posterior.kl().mean() / posterior.mean[0].numel()
            if name == "full":
                parts["drift"] = F.mse_loss(posterior.mean[:half].float(), target.float())
        return distance + 2 * parts["drift"] + 0.004 * kl, parts | {"kl": kl}

    return value


def train(folder: Path, start: AutoencoderKL, steps: int, batch: int, lr: float) -> AutoencoderKL:
    """Go on from mini-sd's autoencoder, or continue in `folder`. batch: pictures, and as many maps."""
    data = Scenes(SEED, view, length=steps * batch)
    old = deepcopy(start).eval().requires_grad_(False)
    model = fit(deepcopy(start).requires_grad_(True), data, loss(old), folder, steps, batch, lr, ema=0.99)
    model.register_to_config(_name_or_path=None)  # diffusers would keep the folder that it was read from
    return model


def round_trip(model: AutoencoderKL, scenes: list[Scene], stride: int = 1) -> float:
    """Recall of the scenes' objects, kind and colour, in their segmentations after encoding and decoding; stride 2: at
    half the size. Objects that the segmentation itself does not show are not asked for."""
    maps = np.stack([segmentation(scene)[::stride, ::stride] for scene in scenes])
    after = reconstruct(model, torch.from_numpy(maps.copy())).numpy()
    shown = [[(one.kind, one.color) for one in objects(picture)] for picture in maps]
    found = [[(one.kind, one.color) for one in objects(picture)] for picture in after]
    return float(np.mean([recall(f, s) for f, s in zip(found, shown, strict=True) if s]))


@torch.no_grad()
def drift(model: AutoencoderKL, old: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean squared difference of the pictures' latents to the old ones', as a share of these's variance."""
    x = to_tensor(images)
    new, before = (net.encode(x).latent_dist.mean for net in (model, old))
    return float((new - before).square().mean() / before.var())
