"""Training images that a slow model made once, mixed with fresh renders.

The judge and the guide must know what decoders and denoisers make of a scene, but running those for every training
image would cost more than the training itself.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import Dataset

from helpers.training.loop import Scenes


class MixedDataset(Dataset):
    """The scenes of `fresh`, where every second image is one of n that were changed once.

    change: (images (B, 3, 64, 64) float in [0, 1], their first item's number) -> the changed images, same shape; called
    once for every batch of them. The labels of a changed image are those of its scene, rendered again when needed.
    """

    def __init__(self, fresh: Scenes, n: int, change: Callable[[torch.Tensor, int], torch.Tensor], batch: int = 50):
        self.fresh, self.n, self.change, self.batch = fresh, n, change, batch

    @cached_property
    def images(self) -> list[np.ndarray]:
        """The changed images, made when first asked for: a finished run that is only read again does without."""
        made = []
        for first in range(0, self.n, self.batch):
            numbers = range(first, min(self.n, first + self.batch))
            x = torch.from_numpy(np.stack([self.fresh[i]["image"] for i in numbers])).float() / 255
            with torch.no_grad():
                made += list(self.change(x, first).clamp(0, 1).mul(255).round().byte().cpu().numpy())
        return made

    def __len__(self):
        return len(self.fresh)

    def __getitem__(self, i):
        if i % 2:
            return self.fresh[i + self.n]
        k = i // 2 % self.n
        return self.fresh[k] | {"image": self.images[k]}
