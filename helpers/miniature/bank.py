"""A bank of training images made once by a slow model, mixed with fresh renders.

The judge and the guide must know what decoders and denoisers make of a scene, but running those for every training
image would cost more than the training itself.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import Dataset

from helpers.miniature.training import Scenes


class Mixed(Dataset):
    """The scenes of `fresh`, where every second image is replaced by a changed one from a bank of n.

    change: (images (B, 3, 64, 64) float in [0, 1], their first item's number) -> the changed images, same shape; called
    once for every batch of the bank. The labels of a banked image are those of its scene, rendered again when needed.
    """

    def __init__(self, fresh: Scenes, n: int, change: Callable[[torch.Tensor, int], torch.Tensor], batch: int = 50):
        self.fresh, self.images = fresh, []
        for first in range(0, n, batch):
            numbers = range(first, min(n, first + batch))
            x = torch.from_numpy(np.stack([fresh[i]["image"] for i in numbers])).float() / 255
            with torch.no_grad():
                self.images += list(change(x, first).clamp(0, 1).mul(255).round().byte().cpu().numpy())

    def __len__(self):
        return len(self.fresh)

    def __getitem__(self, i):
        if i % 2:
            return self.fresh[i + len(self.images)]
        k = i // 2 % len(self.images)
        return self.fresh[k] | {"image": self.images[k]}
