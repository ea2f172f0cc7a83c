"""Wrong answers on purpose: wrappers that disturb what a guide says, to see what a method bears.

Errors are the same in every call: wrong, not merely noisy. Noise that is new at every step would average out.
"""

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


CELLS = 6  # how many times a smooth error changes its direction along a side
MOST = 16  # phrases of one image that have errors of their own


def _noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class DisturbedSegmenter:
    """A text-prompted segmenter whose logits carry a smooth error of `logits` root mean square, another per phrase."""

    def __init__(self, segmenter, logits: float, seed: int = 0):
        self.segmenter, self.logits = segmenter, logits
        self.error = _noise(1, MOST, CELLS, CELLS, seed=seed)

    def embed(self, phrases: list[str]) -> torch.Tensor:
        return self.segmenter.embed(phrases)

    def __call__(self, images: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """As `helpers.perception.segmenter.Segmenter`: logits (B, n, H, W)."""
        found = self.segmenter(images, embeddings)
        error = F.interpolate(self.error.to(found), found.shape[-2:], mode="bicubic", align_corners=False)
        return found + self.logits * (error / error.square().mean((2, 3), keepdim=True).sqrt())[:, : found.size(1)]


class DisturbedDetector:
    """A detector whose boxes have every side moved by `pixels` root mean square, otherwise for each phrase."""

    def __init__(self, detector, pixels: float, seed: int = 0):
        self.detector, self.error = detector, pixels * _noise(MOST, 4, seed=seed)

    def __call__(self, images: torch.Tensor, phrases) -> tuple[torch.Tensor, torch.Tensor]:
        """As `helpers.perception.detector.MaskDetector`: boxes (B, N, 4) and scores (B, N)."""
        boxes, scores = self.detector(images, phrases)
        height, width = images.shape[-2:]
        moved = boxes + self.error[: boxes.size(1)].to(boxes)
        low = torch.minimum(moved[..., :2], moved[..., 2:]).clamp(min=0)
        high = torch.maximum(moved[..., :2], moved[..., 2:]).minimum(boxes.new_tensor([width, height]))
        boxes = torch.cat([torch.minimum(low, boxes.new_tensor([width, height]) - 1), high], -1)
        boxes[..., 2:] = torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)
        return boxes * (scores > 0)[..., None], scores


class DisturbedFlow:
    """The flow plus a smooth error of `pixels` root mean square."""

    def __init__(self, flow, pixels: float, seed: int = 0):
        self.flow, self.pixels = flow, pixels
        self.error = _noise(1, 2, CELLS, CELLS, seed=seed)

    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """As `helpers.perception.flow.Flow`: (B, 2, H, W) in pixels."""
        found = self.flow(source, target)
        error = F.interpolate(self.error.to(found), found.shape[-2:], mode="bicubic", align_corners=False)
        return found + self.pixels * error / error.square().sum(1).mean().sqrt()
