"""Scenes before and after some of their objects moved, with the exact motion: what drag guidance is about."""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import SIDE
from helpers.miniature.world import move, random_scene, render

REACH = 24  # pixels, the longest motion
SEEN = 0.4  # a moved object shows at least this share of the pixels that it showed before


@dataclass(frozen=True)
class Moved:
    """An edited scene; flow (2, 64, 64) float32 in pixels, x then y, on the source; moved (64, 64) bool: the visible
    source pixels of the objects that moved; index: the object that moved first."""

    scene: Scene
    flow: np.ndarray
    moved: np.ndarray
    index: int


def displace(scene: Scene, rng: np.random.Generator, several: float = 0.0) -> Moved:
    """Move an object 1 to 24 pixels in any direction, also behind others and partly out of the image.

    several: probability that every other object moves, too. Depths stay as they are, and what did not move has flow 0,
    also where something now covers it.
    """
    before = render(scene).visible
    first = int(rng.integers(len(scene.things)))
    chosen = [first, *(i for i in range(len(scene.things)) if i != first and rng.random() < several)]
    while True:
        edited, flow = scene, np.zeros((2, SIDE, SIDE), np.float32)
        for i in chosen:
            angle, length = 2 * pi * rng.random(), 1 + (REACH - 1) * rng.random()
            d = round(length * cos(angle)), round(length * sin(angle))
            if not (0 <= scene.things[i].x + d[0] < SIDE and 0 <= scene.things[i].y + d[1] < SIDE):
                break  # the centre would leave the image
            edited, _ = move(edited, i, *d)
            flow += before[i] * np.float32(d)[:, None, None]
        else:
            after = render(edited).visible
            if all(after[i].sum() >= SEEN * before[i].sum() for i in chosen):
                return Moved(edited, flow, before[chosen].any(0), first)


def edits(scenes: list[Scene], seed: int = 0) -> list[Moved]:
    """Each scene with one object moved, the same on every call: held-out pairs."""
    return [displace(scene, np.random.default_rng([seed, i])) for i, scene in enumerate(scenes)]


def edited_scene(seed: int, i: int, several: float = 0.0) -> Scene:
    """The edited scene of item i of `Scenes(seed, ...)` whose view begins with `displace`."""
    rng = np.random.default_rng([seed, i])
    return displace(random_scene(rng), rng, several).scene
