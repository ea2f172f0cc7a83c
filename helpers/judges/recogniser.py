"""The recogniser of the miniature world: the objects of an image, and what is no object. It scores and never guides.

A fully convolutional encoder-decoder with batch norm and ReLU (the guide is a vision transformer) predicts at every
pixel the kind (background, ten kinds, or malformed), the colour, the pattern and the way to its object's centre; a
global head names the background. Instances are clusters of pixels of one kind that vote for one centre (Cheng et al.
2020, "Panoptic-DeepLab"), so that touching objects stay apart and an object behind another one stays whole.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from scipy import ndimage
from torch import nn

from helpers.judges.base import Found
from helpers.miniature.scene import mask_box
from helpers.miniature.vocabulary import BACKGROUNDS, COLORS, KINDS, PATTERNS, SIDE

LABELS = ("background", *KINDS, "malformed")
REACH = 16.0  # pixels per unit of the predicted way to the centre
MIN_PIXELS = 40  # a smaller component is not an object
MIN_SCORE = 0.5


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        return F.relu(x + self.second(self.first(x)))


CARD = """---
{{ card_data }}
---

The judge of the miniature world: see `MODEL_CARDS.md` and `helpers/judges/recogniser.py`.
"""


class Recogniser(nn.Module, PyTorchModelHubMixin, model_card_template=CARD):
    """Dense predictions at 64x64 from five scales; `save_pretrained` and `from_pretrained` keep it as safetensors.

    The methods that score take pictures of any size and resize them to the 64x64 that the model sees.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 80, 144, 160), blocks: tuple[int, ...] = (0, 1, 2, 2, 2)):
        super().__init__()
        widths, inputs = tuple(widths), (3, *widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(conv(a, b, 1 if k == 0 else 2), *(Residual(b) for _ in range(n)))
            for k, (a, b, n) in enumerate(zip(inputs, widths, blocks))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths[1:-1], widths[2:]))
        self.up = nn.ModuleList(Residual(a) for a in widths[1:-1])
        self.last = conv(widths[0] + widths[1], 32)
        self.embed = nn.Linear(widths[-1] + widths[2], 64)
        self.parts = (len(LABELS), len(COLORS), len(PATTERNS), 2)
        self.dense = nn.Conv2d(32, sum(self.parts), 1)
        self.scene = nn.Linear(64, len(BACKGROUNDS) + len(LABELS) - 1 + len(COLORS))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """images: (B, 3, 64, 64) in [0, 1], only of this size -> logits kind (B, 12, 64, 64), color (B, 7, ...),
        pattern (B, 2, ...), way (B, 2, ...) in units of REACH pixels (x then y), background (B, 5), present (B, 18:
        kinds but the background, colours), features (B, 64)."""
        levels = self.levels(images)
        features = self.embed(torch.cat([levels[-1].mean((2, 3)), levels[2].mean((2, 3))], 1))
        x = self._merge(levels)
        kind, color, pattern, way = self.dense(x).split(self.parts, 1)
        background, present = self.scene(F.relu(features)).split([len(BACKGROUNDS), self.scene.out_features - 5], 1)
        names = ("kind", "color", "pattern", "way", "background", "present", "features")
        return dict(zip(names, (kind, color, pattern, way, background, present, features)))

    def levels(self, images: torch.Tensor) -> list[torch.Tensor]:
        """images as in `forward` -> the encoder's features, one (B, width, h, w) per scale, h = 64, 32, 16, 8, 4."""
        x = (images - 0.5).mul(4).contiguous(memory_format=torch.channels_last)
        levels = []
        for stage in self.down:
            x = stage(x)
            levels.append(x)
        return levels

    def _merge(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """What the dense predictions are made of: (B, 32, 64, 64), all scales together."""
        x = levels[-1]
        for k in range(len(self.up), 0, -1):
            x = self.up[k - 1](levels[k] + F.interpolate(self.lateral[k - 1](x), scale_factor=2, mode="nearest"))
        return self.last(torch.cat([levels[0], F.interpolate(x, scale_factor=2, mode="nearest")], 1))

    @torch.no_grad()
    def judge(self, images: torch.Tensor, batch: int = 50) -> dict[str, torch.Tensor]:
        """The forward pass in batches, in float32 on the CPU."""
        outs = [self(part) for part in self._batches(images, batch)]
        return {key: torch.cat([o[key].float().cpu() for o in outs]) for key in outs[0]}

    @torch.no_grad()
    def pyramid(self, images: torch.Tensor, batch: int = 50) -> list[torch.Tensor]:
        """Dense features for point correspondence and LPIPS-style distances, in float32 on the CPU: `levels`, and
        last the (B, 32, 64, 64) that the dense predictions are made of."""
        outs = []
        for part in self._batches(images, batch):
            levels = self.levels(part)
            outs.append([*levels, self._merge(levels)])
        return [torch.cat(scale).float().cpu().contiguous() for scale in zip(*outs)]

    def _batches(self, images: torch.Tensor, batch: int) -> list[torch.Tensor]:
        """Parts of the images at 64x64, where the model's weights are."""
        if images.dim() != 4 or images.shape[1] != 3 or not images.numel():
            raise ValueError(f"the judge scores (B, 3, H, W) images in [0, 1], not {tuple(images.shape)}: reshape them")
        parts = [part.to(next(self.parameters())) for part in images.split(batch)]
        if images.shape[-2:] != (SIDE, SIDE):
            parts = [F.interpolate(part, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1) for part in parts]
        return parts

    def recognise(self, images: torch.Tensor) -> list[list[Found]]:
        """images: (B, 3, H, W) in [0, 1] -> every image's objects, best score first; boxes and masks in its pixels.

        An object has at least MIN_PIXELS of the 64x64 that the model sees, and at least a pixel of the picture.
        """
        out = self.judge(images)
        probability = [out[key].softmax(1).numpy() for key in ("kind", "color", "pattern")]
        found = [instances(*arrays) for arrays in zip(*probability, out["way"].numpy() * REACH)]
        height, width = images.shape[-2:]
        return [sorted(resized(f, height, width), key=lambda thing: -thing.score) for f in found]

    def background(self, images: torch.Tensor) -> list[str]:
        """The name of every image's background."""
        return [list(BACKGROUNDS)[i] for i in self.judge(images)["background"].argmax(1)]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 64) float32, for distances between sets of images."""
        return self.judge(images)["features"]


def clusters(votes: np.ndarray, fewest: int = 3) -> np.ndarray:
    """votes: (n, 2) pixels (y, x) -> (n,) cluster number from 1 on, 0 for stray votes.

    Clusters are connected components of the pixels that receive at least `fewest` votes, widened by one pixel.
    """
    votes = np.clip(np.rint(votes).astype(int), 0, SIDE - 1)
    count = np.zeros((SIDE, SIDE), int)
    np.add.at(count, tuple(votes.T), 1)
    places, _ = ndimage.label(ndimage.binary_dilation(count >= fewest, np.ones((3, 3))), np.ones((3, 3)))
    return places[tuple(votes.T)]


def instances(kind: np.ndarray, color: np.ndarray, pattern: np.ndarray, way: np.ndarray) -> list[Found]:
    """The objects in one image's dense predictions: probabilities (classes, 64, 64) and way (2, 64, 64) in pixels."""
    label = kind.argmax(0)
    found = []
    for k in np.unique(label[(label > 0) & (label < len(LABELS) - 1)]):
        ys, xs = np.nonzero(label == k)
        if len(ys) < MIN_PIXELS:
            continue
        number = clusters(np.stack([ys + way[1, ys, xs], xs + way[0, ys, xs]], 1))
        for c in range(1, number.max() + 1):
            y, x = ys[number == c], xs[number == c]
            score = float(kind[k, y, x].mean()) if len(y) >= MIN_PIXELS else 0.0
            if score < MIN_SCORE:
                continue
            mask = np.zeros((SIDE, SIDE), bool)
            mask[y, x] = True
            names = [list(COLORS)[color[:, y, x].mean(1).argmax()], PATTERNS[pattern[:, y, x].mean(1).argmax()]]
            found.append(Found(LABELS[k], *names, score, mask_box(mask), mask))
    return found


def resized(found: list[Found], height: int, width: int) -> list[Found]:
    """The objects of a 64x64 picture in the pixels of one of another size; those without a pixel there are left out."""
    if (height, width) == (SIDE, SIDE):
        return found
    rows, columns = ((np.arange(n) + 0.5) * SIDE // n for n in (height, width))
    masks = [f.mask[np.ix_(rows.astype(int), columns.astype(int))] for f in found]
    return [replace(f, mask=mask, box=mask_box(mask)) for f, mask in zip(found, masks) if mask.any()]
