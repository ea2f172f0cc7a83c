"""Drags of dark blocks before a light background, and stand-ins for the trained nets that are exact there."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from helpers.conditions import Drag, Move, encode_image
from helpers.guidance.dma import DMA, pixels
from helpers.sampling.hooks import Recurrence
from helpers.sampling.strength import Raw


class Centroids:
    """An optical flow that is the way between the centroids of what is dark, the same at every pixel."""

    def __call__(self, source, target):
        def centre(images):
            dark = torch.sigmoid(20 * (0.5 - images.mean(1)))
            place = (dark[:, None] * pixels(*images.shape[-2:]).to(images)).sum((2, 3))
            return place / dark.sum((1, 2))[:, None].clamp(min=1)

        return (centre(target) - centre(source))[:, :, None, None].expand(-1, -1, *source.shape[-2:])


class Blocks:
    """A click segmenter: the connected dark pixels under the clicks."""

    calls = 0

    def __call__(self, images, points):
        self.calls += 1
        logits = torch.full((len(images), *images.shape[-2:]), -5.0)
        for k, (image, clicked) in enumerate(zip(images, points, strict=True)):
            parts, _ = ndimage.label(image.mean(0).numpy() < 0.5)
            for x, y in clicked.round().long().tolist():
                if parts[y, x]:
                    logits[k][torch.from_numpy(parts == parts[y, x])] = 5.0
        return logits


def patches(images):
    """Dense features: colours of 4x4 pixels and their squares, unit norm."""
    small = F.avg_pool2d(images, 4)
    return F.normalize(torch.cat([small, small.square(), torch.ones_like(small[:, :1])], 1), dim=1)


def picture(*boxes, size=64):
    image = np.full((size, size, 3), 240, np.uint8)
    for n, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1] = (40 + 20 * n, 30, 60)
    return image


def fraction(x, y):
    return (x + 0.5) / 64, (y + 0.5) / 64


def drag(boxes, moves, prompt="a red ball", **fields):
    moves = [Move(handle=fraction(*h), target=fraction(*q)) for h, q in moves]
    return Drag(**{"prompt": prompt, "source": encode_image(picture(*boxes)), "moves": moves} | fields)


A, B = (8, 20, 24, 36), (40, 40, 52, 56)
ONE = drag([A, B], [((15, 27), (25, 33))])
TWO_HANDLES = drag([A, B], [((10, 27), (20, 37)), ((21, 27), (31, 37))], prompt="a blue car")
TWO_OBJECTS = drag([A, B], [((15, 27), (15, 15)), ((45, 45), (40, 50))], prompt="a red car and a blue fish")
DRAGS = [ONE, TWO_HANDLES, TWO_OBJECTS]
PROMPTS = [d.prompt for d in DRAGS]


def dma(drags=DRAGS, **options):
    """Every step once, with the gradient as it is."""
    nets = {"flow": Centroids(), "clicks": Blocks(), "features": patches}
    return DMA(**{"drags": drags, "strength": Raw(), "recurrence": Recurrence()} | nets | options)
