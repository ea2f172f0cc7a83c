"""Open-vocabulary detection: where is the thing that a phrase names, and how sure is that?

Both classes are called the same way: detector(images, phrases) -> boxes, scores, the best place of every phrase. Boxes
are for cutting pieces out of an image, not for a gradient: nothing here keeps a graph. They are float32, whatever the
images are: bfloat16 has no 257th pixel.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from helpers.perception.loading import complete, loading, source
from helpers.perception.segmenter import Segmenter

SMALLEST = 0.005  # share of the image that a part of a mask must have to be an object (20 px of 64 x 64)
FAINT = 0.05  # a mask that is nowhere more probable than this shows nothing
SHARE = 0.3  # of its highest probability, above which a pixel belongs to the object: early x0_hat make masks faint


class MaskDetector:
    """The box of the largest connected part of a text-prompted mask; score: the mean probability in that part.

    The miniature detector: its segmenter knows the world's phrases, so it needs no training of its own.
    """

    def __init__(self, segmenter: Segmenter):
        self.segmenter, self._words = segmenter, {}

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, phrases: Sequence[Sequence[str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """images (B, 3, H, W) in [0, 1], phrases of each image -> boxes (B, N, 4) xyxy pixels, scores (B, N) in [0, 1].

        N is the largest number of phrases; where nothing is found, and beyond an image's phrases, score and box are 0.
        """
        new = list(dict.fromkeys(p for row in phrases for p in row if p not in self._words))
        self._words |= zip(new, self.segmenter.embed(new)) if new else {}
        most = max(map(len, phrases), default=0)
        boxes, scores = torch.zeros(len(images), most, 4), torch.zeros(len(images), most)
        if most:
            nothing = torch.zeros_like(next(iter(self._words.values())))
            rows = [[self._words[p] for p in row] + [nothing] * (most - len(row)) for row in phrases]
            found = self.segmenter(images, torch.stack([torch.stack(row) for row in rows])).sigmoid().cpu().numpy()
            for b, row in enumerate(phrases):
                for n in range(len(row)):
                    boxes[b, n], scores[b, n] = _largest_part(found[b, n])
        return boxes.to(images.device), scores.to(images.device)


def _largest_part(mask: np.ndarray) -> tuple[torch.Tensor, float]:
    parts, count = ndimage.label(mask > max(SHARE * mask.max(), FAINT))
    if not count:
        return torch.zeros(4), 0.0
    sizes = np.bincount(parts.ravel())[1:]
    k = int(sizes.argmax())
    if sizes[k] < SMALLEST * mask.size:
        return torch.zeros(4), 0.0
    ys, xs = ndimage.find_objects(parts)[k]
    return torch.tensor([xs.start, ys.start, xs.stop, ys.stop]).float(), float(mask[parts == k + 1].mean())


class ZeroShotDetector:
    """A detector of transformers by its name or folder: Grounding DINO ("IDEA-Research/grounding-dino-tiny"), OWLv2."""

    def __init__(self, model, processor):
        self.model, self.processor = model.eval().requires_grad_(False), processor

    @classmethod
    def load(cls, name: str | Path, device="cpu") -> "ZeroShotDetector":
        """From a folder in the Hub's layout or a Hub id; float32. See `loading.source`."""
        where = source(name)
        model = complete(where, AutoModelForZeroShotObjectDetection)
        with loading(where):
            processor = AutoProcessor.from_pretrained(where)
        return cls(model.to(device), processor)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, phrases: Sequence[Sequence[str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """See MaskDetector. Every phrase is asked for by itself, so that labels need no matching to phrases."""
        height, width = images.shape[-2:]
        most = max(map(len, phrases), default=0)
        boxes, scores = torch.zeros(len(images), most, 4), torch.zeros(len(images), most)
        pictures = (images.clamp(0, 1) * 255).round().byte().cpu()
        for b, row in enumerate(phrases):
            for n, phrase in enumerate(row):
                inputs = self.processor(images=pictures[b], text=[[phrase]], return_tensors="pt").to(self.model.device)
                outputs = self.model(**inputs)
                (found,) = self.processor.post_process_grounded_object_detection(
                    outputs, threshold=0.0, target_sizes=[(height, width)]
                )
                if len(found["scores"]):
                    best = found["scores"].argmax()
                    boxes[b, n], scores[b, n] = found["boxes"][best].cpu(), found["scores"][best].cpu()
        limit = torch.tensor([width, height, width, height])
        return boxes.clamp(min=0).minimum(limit).to(images.device), scores.to(images.device)
