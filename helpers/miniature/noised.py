"""Known scenes as the denoiser guesses them: what every guide sees, to train on and to be measured on."""

from collections.abc import Callable

import numpy as np
import torch

from helpers.backbones import Backbone
from helpers.miniature.early import disturbed, estimates
from helpers.miniature.world import Scene


def guesses(backbone: Backbone, scene: Callable[[int], Scene], seed: int) -> Callable:
    """The `change` of a bank (`Mixed`): its batches in turn become mini-sd's x0_hat at random timesteps, and what the
    autoencoder decodes from disturbed latents. scene: the scene that item i of the bank shows."""

    def change(x, first):
        if first // len(x) % 2:
            return disturbed(backbone.pipe.vae, x, first)
        t = np.random.default_rng([seed, first]).integers(50, 800, len(x)).tolist()
        return estimates(backbone, [scene(first + k) for k in range(len(x))], x, t, first)

    return change


def x0_hats(backbone: Backbone, scenes: list[Scene], images: torch.Tensor, t: int, batch: int = 50) -> torch.Tensor:
    """Images (n, 3, 64, 64) in [0, 1] of `scenes`, noised to timestep t (0 to 999) and guessed by mini-sd in one step.

    Captions, CFG scales (1 to 6) and noise are the same on every call.
    """
    parts = []
    for first in range(0, len(scenes), batch):
        part = slice(first, first + batch)
        n = len(scenes[part])
        parts.append(estimates(backbone, scenes[part], images[part], [t] * n, first))
    return torch.cat(parts)
