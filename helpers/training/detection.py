"""The detector, which is not trained, on pictures of known scenes: how well it finds what a phrase names."""

import numpy as np
import torch

from helpers.metrics.layout import average_precision, box_iou
from helpers.miniature.captions import describe
from helpers.miniature.scene import Scene, mask_box
from helpers.miniature.vocabulary import COLORS, KINDS
from helpers.miniature.world import render


def evaluate(detector, scenes: list[Scene], images: torch.Tensor, batch: int = 50) -> dict[str, float]:
    """ap50: average precision at box IoU .5 over all phrases, on images (n, 3, 64, 64) of known scenes.

    Every image is asked for its own objects and for two things that are not there: another colour of its first object's
    kind, and any other kind. A detection of an absent thing is wrong.
    """
    rng = np.random.default_rng(0)
    asked = []
    for scene in scenes:
        there = {(t.kind, t.color) for t in scene.things}
        kind = scene.things[0].kind
        colors = [c for c in COLORS if (kind, c) not in there]
        kinds = [k for k in KINDS if k not in {t.kind for t in scene.things}]
        absent = [f"{rng.choice(colors)} {kind}", f"{rng.choice(list(COLORS))} {rng.choice(kinds)}"]
        asked.append([describe(scene, i) for i in range(len(scene.things))] + absent)
    found, positives = [], 0
    for first in range(0, len(scenes), batch):
        part = slice(first, first + batch)
        boxes, scores = detector(images[part], asked[part])
        for scene, phrases, places, sure in zip(scenes[part], asked[part], boxes.tolist(), scores.tolist()):
            truth = [mask_box(mask) for mask in render(scene).visible]
            positives += len(truth)
            for n, (box, score) in enumerate(zip(places[: len(phrases)], sure)):
                if score > 0:
                    found.append((score, n < len(truth) and box_iou(box, truth[n]) >= 0.5))
    found.sort(reverse=True)
    right = np.array([[hit] for _, hit in found], float).reshape(-1, 1)
    return {"ap50": float(average_precision(right, np.ones(len(right)), positives)[0])}
