"""Contrast and saturation of images: strong guidance tends to raise both before it destroys the image."""

import torch

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def contrast(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] -> (B,) in [0, .5]: RMS contrast, the standard deviation of luma (Peli 1990)."""
    luma = (images * torch.tensor(LUMA).to(images)[:, None, None]).sum(1)
    return luma.flatten(1).std(1, correction=0)


def saturation(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] -> (B,) in [0, 1]: mean of HSV's S = (max - min) / max, 0 for black."""
    high, low = images.amax(1), images.amin(1)
    return ((high - low) / high.clamp(min=1e-6)).flatten(1).mean(1)
