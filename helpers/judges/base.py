"""What a judge is: a model that scores pictures and never guides. It says what it recognises in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch


@dataclass(frozen=True)
class Found:
    """A recognised object: score in [0, 1], box (x0, y0, x1, y1) in the picture's pixels, mask (H, W) bool of its
    visible part."""

    kind: str
    color: str
    pattern: str
    score: float
    box: tuple[int, int, int, int]
    mask: np.ndarray


class Judge(Protocol):
    """Recognises objects. A judge may say more (background, features); what scores with it says what it needs."""

    def recognise(self, images: torch.Tensor) -> Sequence[Sequence[Found]]:
        """images (B, 3, H, W) in [0, 1], of any size -> the objects of every image, best score first."""
        ...
