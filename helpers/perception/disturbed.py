"""Wrong answers on purpose: wrappers that disturb a click segmenter or a flow network, to see what a method bears."""

import torch
import torch.nn.functional as F


class DisturbedClicks:
    """Masks grown by `grow` pixels (shrunk where negative), then shifted by (x, y) pixels."""

    def __init__(self, clicks, grow: int = 0, shift: tuple[int, int] = (0, 0)):
        self.clicks, self.grow, self.shift = clicks, grow, shift

    def __call__(self, images: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """As `helpers.perception.clicks.ClickSegmenter`: logits (B, H, W)."""
        logits, sign, reach = self.clicks(images, points), 1 if self.grow > 0 else -1, abs(self.grow)
        logits = sign * F.max_pool2d(sign * logits, 2 * reach + 1, 1, reach)
        dx, dy = self.shift
        height, width = logits.shape[-2:]
        x = (torch.arange(width, device=logits.device) - dx).clamp(0, width - 1)
        y = (torch.arange(height, device=logits.device) - dy).clamp(0, height - 1)
        return logits[:, y[:, None], x]


class DisturbedFlow:
    """The flow plus a smooth error of `pixels` root mean square, the same in every call: wrong, not merely noisy.

    cells: how many times the error changes its direction along a side.
    """

    def __init__(self, flow, pixels: float, cells: int = 6, seed: int = 0):
        self.flow, self.pixels = flow, pixels
        self.error = torch.randn(1, 2, cells, cells, generator=torch.Generator().manual_seed(seed))

    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """As `helpers.perception.flow.Flow`: (B, 2, H, W) in pixels."""
        found = self.flow(source, target)
        error = F.interpolate(self.error.to(found), found.shape[-2:], mode="bicubic", align_corners=False)
        return found + self.pixels * error / error.square().sum(1).mean().sqrt()
