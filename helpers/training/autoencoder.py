"""The autoencoder of mini-sd: diffusers' AutoencoderKL, 64x64 RGB to 4x16x16 latents."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from helpers.miniature.world import render
from helpers.training.loop import SEEDS, Scenes, device, fit


def build() -> AutoencoderKL:
    torch.manual_seed(SEEDS["autoencoder"])
    return AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        sample_size=64,
    )


def image(scene, rng) -> np.ndarray:
    return render(scene).image


def to_tensor(images: torch.Tensor) -> torch.Tensor:
    """(B, 64, 64, 3) uint8 -> (B, 3, 64, 64) float in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def loss(kl_weight: float, scale_weight: float):
    """Reconstruction + kl_weight * KL per latent dimension (nats) + scale_weight * reconstruction at half the size.

    Reconstruction is L1 + 0.5 squared error + 0.5 L1 of the image's finite differences. The last term decodes
    2x2-averaged latents to the 2x2-averaged image (scale equivariance: EQ-VAE, Kouzelis et al. 2025): latents of which
    the low frequencies already tell the scene are easier to denoise.
    """

    def distance(y, x):
        edges = sum((torch.diff(y, dim=d) - torch.diff(x, dim=d)).abs().mean() for d in (2, 3))
        return (y - x).abs().mean() + 0.5 * F.mse_loss(y, x) + 0.5 * edges

    def value(model, images, generator):
        x = to_tensor(images).to(model.device)
        posterior = model.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
        z = posterior.mean + posterior.std * noise
        y = model.decode(z).sample.float()
        parts = {"mse": F.mse_loss(y, x), "kl": posterior.kl().mean() / z[0].numel()}
        total = distance(y, x) + kl_weight * parts["kl"]
        if scale_weight:
            parts["half"] = distance(model.decode(F.avg_pool2d(z, 2)).sample.float(), F.avg_pool2d(x, 2))
            total = total + scale_weight * parts["half"]
        return total, parts

    return value


def train(folder: Path, phases: list[dict], batch: int) -> AutoencoderKL:
    """Train in phases, each {"steps", "lr", "kl_weight", "scale_weight"}: first sharp, then easy to denoise.

    The second phase drops what no image needs (40 dB are more than a 64-pixel scene is worth) and leaves latents that
    tolerate the errors of a small diffusion model.
    """
    model = build()
    for k, phase in enumerate(phases):
        data = Scenes(SEEDS["autoencoder"] + 100 * k, image, length=phase["steps"] * batch)
        model = fit(
            model.requires_grad_(True),
            data,
            loss(phase["kl_weight"], phase["scale_weight"]),
            folder / f"phase{k}",
            phase["steps"],
            batch,
            phase["lr"],
            ema=0.995,
        )
    normalise(model, torch.from_numpy(np.stack([data[i] for i in range(600)])))
    return model


@torch.no_grad()
def normalise(model: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold the latents' mean and scale into quant_conv and post_quant_conv, exactly: z' = (z - m) / s.

    Afterwards the posterior means of `images` have zero mean per channel and unit variance over all channels, so that
    scaling_factor is 1. One s for all: a channel that carries little stays small.
    """
    means = torch.cat([model.encode(to_tensor(part).to(model.device)).latent_dist.mean for part in images.split(100)])
    m = means.mean((0, 2, 3))
    s = (means - m[:, None, None]).square().mean().sqrt()
    encode, decode = model.quant_conv, model.post_quant_conv
    decode.bias.add_(decode.weight[:, :, 0, 0] @ m)
    decode.weight.mul_(s)
    encode.bias[:4].sub_(m)
    encode.weight[:4].div_(s)
    encode.bias[:4].div_(s)
    encode.bias[4:].sub_(2 * s.log())


@torch.no_grad()
def psnr(model: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean over images of the reconstruction's PSNR in dB (peak 1 on [0, 1] images)."""
    values = []
    for part in images.split(100):
        x = to_tensor(part).to(model.device)
        y = model.decode(model.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        values.append(-10 * torch.log10(((x - y) / 2).square().flatten(1).mean(1)))
    return torch.cat(values).mean().item()


def reconstruct(model: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """(B, 64, 64, 3) uint8 -> the same after encoding and decoding."""
    with torch.no_grad():
        x = to_tensor(images).to(device())
        y = model.decode(model.encode(x).latent_dist.mean).sample
    return y.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu()


@torch.no_grad()
def through(autoencoder: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, 64, 64) in [0, 1], encoded and decoded, in batches of 50."""
    parts = []
    for part in x.split(50):
        latents = autoencoder.encode(part.to(autoencoder.device) * 2 - 1).latent_dist.mean
        parts.append(autoencoder.decode(latents).sample.float().cpu() / 2 + 0.5)
    return torch.cat(parts).clamp(0, 1)
