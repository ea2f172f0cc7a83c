"""Scenes of the miniature world as plain data, and what can be said of them without drawing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from helpers.miniature.vocabulary import HELD_OUT


@dataclass(frozen=True)
class Thing:
    """One object of a scene; (x, y) is the centre of its square cell in pixels, `side` the cell's side."""

    kind: str
    color: str
    pattern: str
    size: str
    side: int
    x: int
    y: int


@dataclass(frozen=True)
class Scene:
    """A background and its objects, back to front."""

    background: str
    things: tuple[Thing, ...]


def is_held_out(scene: Scene) -> bool:
    """Does an object show a colour that no training scene of mini-sd shows on its kind?"""
    return any((t.kind, t.color) in HELD_OUT for t in scene.things)


def shifted(scene: Scene, shifts: Sequence[tuple[int, int, int]]) -> Scene:
    """The scene after motions by whole pixels, each (object, dx, dy)."""
    things = list(scene.things)
    for index, dx, dy in shifts:
        things[index] = replace(things[index], x=things[index].x + dx, y=things[index].y + dy)
    return replace(scene, things=tuple(things))


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Tight (x0, y0, x1, y1) of a boolean mask, exclusive at the right and bottom; zeros for an empty mask."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1) if len(xs) else (0, 0, 0, 0)
