"""Pictures with and without a flaw: what the quality metric learns to tell apart, and others that it is tried on."""

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from diffusers import AutoencoderKL

from helpers.miniature.world import random_scene, render, sprite
from helpers.paths import weights
from helpers.training.autoencoder import reconstruct
from helpers.training.judge import draw
from helpers.training.malformed import TESTING, TRAINING, malformed

SEEDS = {"fit": 71, "held-out": 72}


def _malformed(image: torch.Tensor, scene, rng, generators) -> torch.Tensor:
    """One object of the scene replaced by a malformed shape."""
    first, *others = scene.things
    patches = [(malformed(generators, first.side, rng), None, first.x, first.y)]
    patches += [(sprite(t.kind, t.color, t.pattern, t.side), t, t.x, t.y) for t in others]
    picture = draw(scene.background, patches)[0]
    return torch.from_numpy(picture).permute(2, 0, 1).float()


def _noisy(image, rng, low, high):
    noise = torch.from_numpy(rng.standard_normal(image.shape)).float()
    return (image + float(rng.uniform(low, high)) * noise).clamp(0, 1)


FLAWS = {  # kind -> (image, scene, rng) -> image; of "held-out" none was seen by "fit"
    "fit": (
        lambda image, scene, rng: TF.adjust_contrast(image, float(rng.uniform(1.4, 2.2))),
        lambda image, scene, rng: TF.adjust_contrast(image, float(rng.uniform(0.4, 0.75))),
        lambda image, scene, rng: TF.adjust_saturation(image, float(rng.uniform(1.5, 2.5))),
        lambda image, scene, rng: TF.gaussian_blur(image, [7, 7], [float(rng.uniform(1.0, 2.5))] * 2),
        lambda image, scene, rng: _noisy(image, rng, 0.05, 0.15),
        lambda image, scene, rng: _malformed(image, scene, rng, TRAINING),
    ),
    "held-out": (
        lambda image, scene, rng: TF.adjust_gamma(image, float(rng.choice([0.5, 1.9]))),
        lambda image, scene, rng: TF.adjust_sharpness(image, float(rng.uniform(4.0, 8.0))),
        lambda image, scene, rng: TF.adjust_saturation(image, float(rng.uniform(0.1, 0.4))),
        lambda image, scene, rng: TF.elastic(image, _waves(rng)),
        lambda image, scene, rng: _malformed(image, scene, rng, TESTING),
    ),
}


def _waves(rng) -> torch.Tensor:
    """(1, 64, 64, 2) a smooth displacement, in halves of the picture."""
    coarse = torch.from_numpy(rng.standard_normal((1, 2, 8, 8))).float() * 0.12
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").permute(0, 2, 3, 1)


def pictures(split: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n flawless and n flawed pictures of the same scenes, both through the autoencoder: (n, 3, 64, 64) in [0, 1]."""
    rng = np.random.default_rng(SEEDS[split])
    scenes = [random_scene(rng) for _ in range(n)]
    good = torch.stack([torch.from_numpy(render(scene).image).permute(2, 0, 1).float() / 255 for scene in scenes])
    kinds = FLAWS[split]
    bad = torch.stack([kinds[k % len(kinds)](good[k], scenes[k], rng) for k in range(n)])
    autoencoder = AutoencoderKL.from_pretrained(weights("mini-sd") / "vae", torch_dtype=torch.float32).eval()
    return tuple(_through(autoencoder, images) for images in (good, bad))


def _through(autoencoder, images: torch.Tensor) -> torch.Tensor:
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1)
    parts = [reconstruct(autoencoder, part) for part in pixels.split(50)]
    return torch.cat(parts).permute(0, 3, 1, 2).float() / 255
