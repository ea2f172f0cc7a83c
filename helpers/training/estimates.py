"""Pictures like x0_hat, the denoiser's early estimates: what a guide looks at while it guides, to train on and to be
measured on.

Three ways to make them, from cheap and rough to slow and real: blur renders, disturb latents, ask mini-sd itself.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from helpers.backbones.backbone import Backbone
from helpers.backbones.schedule import Level
from helpers.miniature.captions import random_caption
from helpers.miniature.scene import Scene


def soften(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half of the images become like early x0_hat: blurred up to sigma 4 px, paler, with coarse noise."""
    n = len(x)
    sigma = 4 * torch.rand(n, generator=generator) ** 2 * (torch.rand(n, generator=generator) < 0.5)
    offsets = torch.arange(-8, 9)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=0.1)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(x).repeat_interleave(3, 0)
    flat = F.pad(x, (8, 8, 8, 8), mode="replicate").flatten(0, 1)[None]
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=3 * n)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=3 * n)
    x = flat[0].unflatten(0, (n, 3))
    level = (sigma / 4)[:, None, None, None].to(x)
    x = torch.lerp(x, x.mean((2, 3), keepdim=True), 0.4 * level)
    coarse = F.interpolate(torch.randn((n, 3, 16, 16), generator=generator).to(x), scale_factor=4, mode="bilinear")
    strength = (0.08 * torch.rand(n, generator=generator))[:, None, None, None].to(x)
    fine = 0.03 * torch.rand((n, 1, 1, 1), generator=generator).to(x)
    x = x + (strength * (0.3 + level)) * coarse + fine * torch.randn(x.shape, generator=generator).to(x)
    return x.clamp(0, 1)


@torch.no_grad()
def disturbed(autoencoder: AutoencoderKL, x: torch.Tensor, seed: int) -> torch.Tensor:
    """Images (B, 3, 64, 64) in [0, 1] decoded from latents that are blurred and noisy, each to its own degree."""
    generator = torch.Generator().manual_seed(seed)
    latents = autoencoder.encode(x.to(autoencoder.device) * 2 - 1).latent_dist.mean
    level = torch.rand((len(x), 1, 1, 1), generator=generator).to(latents) ** 2
    latents = torch.lerp(latents, F.avg_pool2d(latents, 3, 1, 1, count_include_pad=False), level)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    latents = latents + 0.7 * level.flip(0) * latents.std() * noise
    return (autoencoder.decode(latents).sample / 2 + 0.5).cpu()


@torch.no_grad()
def estimates(backbone: Backbone, scenes: list[Scene], x: torch.Tensor, t: list[int], seed: int) -> torch.Tensor:
    """One-step x0_hat of mini-sd, decoded: images (B, 3, 64, 64) in [0, 1] of `scenes` noised to the timesteps t.

    Every image has its own caption and a CFG scale between 1 and 6: what DGA looks at while it samples.
    """
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    x0 = backbone.encode(x.to(backbone.device, backbone.dtype))
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    levels = [backbone.schedule.level(k) for k in t]
    level = Level(*(torch.stack(part)[:, None, None, None] for part in zip(*((x.alpha, x.sigma) for x in levels))))
    x_t = level.mix(x0, noise)
    texts = ["" for _ in scenes] + [random_caption(scene, rng).text for scene in scenes]
    steps = torch.tensor(t * 2, device=x0.device)
    uncond, cond = backbone.predict(torch.cat([x_t, x_t]), steps, backbone.encode_text(texts)).chunk(2)
    cfg_scale = (1 + 5 * torch.rand((len(x), 1, 1, 1), generator=generator)).to(x0)
    x0_hat = backbone.schedule.to_x0(uncond + cfg_scale * (cond - uncond), x_t, level)
    return backbone.decode(x0_hat).float().cpu().clamp(0, 1)


def as_estimates(backbone: Backbone, scene: Callable[[int], Scene], seed: int) -> Callable:
    """The `change` of a `MixedDataset`: its batches in turn become mini-sd's x0_hat at random timesteps, and what the
    autoencoder decodes from disturbed latents. scene: the scene that item i shows."""

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
