"""Every perception model on the same held-out scenes, rendered and as mini-sd guesses them at several noise levels."""

from collections.abc import Callable

import numpy as np
import torch

from helpers.backbones.backbone import Backbone
from helpers.miniature.scene import Scene
from helpers.miniature.world import render
from helpers.paths import weights
from helpers.perception.clicks import ClickSegmenter
from helpers.perception.detector import MaskDetector
from helpers.perception.features import Features
from helpers.perception.flow import Flow
from helpers.perception.segmenter import Segmenter
from helpers.perception.similarity import Similarity
from helpers.training import clicks, detection, features, flow, segmenter, similarity
from helpers.training.estimates import x0_hats
from helpers.training.motion import edits

NOISE = (10, 30, 50, 70, 90)  # percent of the schedule: a render is noised to timestep 10 * percent


def exams() -> dict[str, tuple[Callable, bool]]:
    """model, on the CPU -> (evaluate(scenes, images) -> metrics, does it look at the scenes after an object moved?)."""
    guide = Segmenter.load(weights("guide-segmenter"))
    models = {
        "guide_segmenter": (segmenter, guide, False),
        "detector": (detection, MaskDetector(guide), False),
        "clip": (similarity, Similarity.load(weights("clip")), False),
        "sam": (clicks, ClickSegmenter.load(weights("sam")), False),
        "raft": (flow, Flow.load(weights("raft")), True),
        "dino": (features, Features.load(weights("dino")), True),
    }

    def exam(module, model):
        return lambda scenes, images: module.evaluate(model, scenes, images)

    return {name: (exam(module, model), moved) for name, (module, model, moved) in models.items()}


def pictures(scenes: list[Scene], backbone: Backbone, percent: int) -> torch.Tensor:
    """(n, 3, 64, 64): renders (0 percent) or mini-sd's x0_hat of them from that much noise."""
    images = torch.from_numpy(np.stack([render(scene).image for scene in scenes])).permute(0, 3, 1, 2).float() / 255
    return x0_hats(backbone, scenes, images, 10 * percent) if percent else images


@torch.no_grad()
def measure(scenes: list[Scene], backbone: Backbone, percent: int) -> dict[str, dict[str, float]]:
    """model -> metric -> value at one noise level."""
    seen = {
        False: pictures(scenes, backbone, percent),
        True: pictures([pair.scene for pair in edits(scenes)], backbone, percent),
    }
    return {name: exam(scenes, seen[moved]) for name, (exam, moved) in exams().items()}
