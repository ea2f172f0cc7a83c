"""Malformed shapes: patches that no silhouette resembles."""

import numpy as np

from helpers.miniature.vocabulary import KINDS, PATTERNS
from helpers.miniature.world import sprite
from helpers.training.malformed import TESTING, TRAINING, likeness, malformed


def test_malformed_shapes_are_made_unlike_every_silhouette():
    rng = np.random.default_rng(0)
    assert all(likeness(sprite(kind, "red", PATTERNS[0], 26)[..., 3]) > 0.8 for kind in KINDS)
    for generator in (*TRAINING, *TESTING):
        patch = malformed((generator,), 24, rng)
        assert patch.shape == (24, 24, 4) and patch.min() >= 0 and patch.max() <= 1 and likeness(patch[..., 3]) < 0.78
