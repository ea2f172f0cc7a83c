"""The miniature world: scenes of flat objects, drawn with exact masks, boxes, depth order and motion.

A `Scene` is plain data (a background and a list of objects, back to front); `render` turns it into a 64x64 RGB image.
Every silhouette is drawn once per size with PIL at 8 times the resolution and averaged down, so that edges are
anti-aliased; a scene is then a few numpy compositing operations (thousands of scenes a second and core).
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from helpers.miniature.scene import Scene, Thing, mask_box, shifted
from helpers.miniature.vocabulary import BACKGROUNDS, COLORS, HELD_OUT, KINDS, PATTERNS, SIDE, SIZES

SUPERSAMPLE = 8
OUTLINE = (34, 30, 34)
STRIPE = (250, 246, 234)


@dataclass(frozen=True)
class Rendered:
    """image (64, 64, 3) uint8; amodal, visible (n, 64, 64) bool; boxes (n, 4) xyxy pixels of the amodal masks."""

    image: np.ndarray
    amodal: np.ndarray
    visible: np.ndarray
    boxes: np.ndarray


# --- silhouettes: each draws the filled shape, then details, on a unit square ----------------------------------------


def _polygon(points):
    return lambda draw, s, ink: draw.polygon([(x * s, y * s) for x, y in points], fill=ink)


def _star(draw, s, ink):
    radii = [0.52, 0.25] * 5
    points = [(0.5 + r * sin(i * pi / 5), 0.525 - r * cos(i * pi / 5)) for i, r in enumerate(radii)]
    draw.polygon([(x * s, y * s) for x, y in points], fill=ink)


def _heart(draw, s, ink):
    t = np.linspace(0, 2 * pi, 120)
    x = 0.5 + 0.5 * np.sin(t) ** 3
    y = 0.47 - (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 32
    draw.polygon(list(zip(x * s, y * s)), fill=ink)


def _moon(draw, s, ink):
    draw.ellipse([0.02 * s, 0, 1.02 * s, s], fill=ink)
    draw.ellipse([0.44 * s, -0.04 * s, 1.16 * s, 0.68 * s], fill=0)


def _car(draw, s, ink):
    draw.polygon([(x * s, y * s) for x, y in [(0.16, 0.46), (0.3, 0.12), (0.72, 0.12), (0.86, 0.46)]], fill=ink)
    draw.rounded_rectangle([0, 0.4 * s, s, 0.78 * s], radius=0.1 * s, fill=ink)
    for x in (0.25, 0.75):
        draw.ellipse([(x - 0.15) * s, 0.62 * s, (x + 0.15) * s, 0.92 * s], fill=ink)


def _fish(draw, s, ink):
    draw.ellipse([0, 0.14 * s, 0.76 * s, 0.86 * s], fill=ink)
    draw.polygon([(x * s, y * s) for x, y in [(0.58, 0.5), (1, 0.16), (1, 0.84)]], fill=ink)


def _tree(draw, s, ink):
    for x, y, r in [(0.5, 0.26, 0.26), (0.27, 0.44, 0.23), (0.73, 0.44, 0.23)]:
        draw.ellipse([(x - r) * s, (y - r) * s, (x + r) * s, (y + r) * s], fill=ink)
    draw.rectangle([0.41 * s, 0.6 * s, 0.59 * s, s], fill=ink)


SILHOUETTES = {
    "ball": lambda draw, s, ink: draw.ellipse([0.04 * s, 0.04 * s, 0.96 * s, 0.96 * s], fill=ink),
    "box": lambda draw, s, ink: draw.rectangle([0.07 * s, 0.07 * s, 0.93 * s, 0.93 * s], fill=ink),
    "triangle": _polygon([(0.5, 0.04), (1, 0.94), (0, 0.94)]),
    "star": _star,
    "heart": _heart,
    "moon": _moon,
    "house": _polygon([(0.5, 0), (1, 0.44), (0.86, 0.44), (0.86, 0.98), (0.14, 0.98), (0.14, 0.44), (0, 0.44)]),
    "car": _car,
    "fish": _fish,
    "tree": _tree,
}

DETAILS = {  # (shape of PIL's ImageDraw, box in the unit square, colour)
    "car": [
        ("rectangle", (0.35, 0.2, 0.67, 0.42), (214, 236, 246)),
        ("ellipse", (0.15, 0.67, 0.35, 0.87), (60, 60, 64)),
        ("ellipse", (0.65, 0.67, 0.85, 0.87), (60, 60, 64)),
    ],
    "fish": [("ellipse", (0.13, 0.37, 0.25, 0.49), OUTLINE)],
    "house": [("rectangle", (0.4, 0.64, 0.6, 0.98), (70, 48, 40))],
    "tree": [("rectangle", (0.41, 0.64, 0.59, 1), (112, 74, 44))],
}


@cache
def sprite(kind: str, color: str, pattern: str, side: int) -> np.ndarray:
    """RGBA in [0, 1], float32, (side, side, 4): straight alpha of one object, anti-aliased."""
    s = side * SUPERSAMPLE
    shape = Image.new("L", (s, s), 0)
    SILHOUETTES[kind](ImageDraw.Draw(shape), s, 255)
    inside = np.asarray(shape) > 127
    stroke = round(1.2 * SUPERSAMPLE)
    core = inside.copy()
    padded = np.pad(inside, stroke)
    for dy, dx in product((-stroke, 0, stroke), repeat=2):  # erosion by the stroke: what is left is not outline
        scale = 0.7071 if dy and dx else 1
        oy, ox = stroke + round(dy * scale), stroke + round(dx * scale)
        core &= padded[oy : oy + s, ox : ox + s]
    rgb = np.empty((s, s, 3), np.float32)
    rgb[:] = COLORS[color]
    if pattern == "striped":  # four horizontal bands: two of the colour, two pale
        band = (np.arange(s) * 5 // s) % 2 == 1
        rgb[band] = STRIPE
    picture = Image.fromarray(rgb.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for shape_name, box, ink in DETAILS.get(kind, []):
        getattr(draw, shape_name)([v * s for v in box], fill=ink)
    rgb = np.where(core[..., None], np.asarray(picture, np.float32), np.float32(OUTLINE))
    alpha = inside.astype(np.float32)
    premultiplied = np.concatenate([rgb / 255 * alpha[..., None], alpha[..., None]], -1)
    small = premultiplied.reshape(side, SUPERSAMPLE, side, SUPERSAMPLE, 4).mean((1, 3))
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return small


@cache
def backdrop(background: str) -> np.ndarray:
    """(64, 64, 3) float32 in [0, 1]: a vertical gradient."""
    top, bottom = (np.float32(c) / 255 for c in BACKGROUNDS[background])
    t = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None, None]
    return np.broadcast_to((1 - t) * top + t * bottom, (SIDE, SIDE, 3))


def _window(thing: Thing):
    """Slices of the image and of the sprite where the two overlap (an object may leave the image)."""
    x0, y0 = thing.x - thing.side // 2, thing.y - thing.side // 2
    xa, ya = max(x0, 0), max(y0, 0)
    xb, yb = min(x0 + thing.side, SIDE), min(y0 + thing.side, SIDE)
    return (slice(ya, yb), slice(xa, xb)), (slice(ya - y0, yb - y0), slice(xa - x0, xb - x0))


def render(scene: Scene) -> Rendered:
    """Draw a scene back to front. A pixel belongs to an object where its alpha exceeds one half."""
    image = backdrop(scene.background).copy()
    n = len(scene.things)
    amodal = np.zeros((n, SIDE, SIDE), bool)
    visible = np.zeros((n, SIDE, SIDE), bool)
    for i, thing in enumerate(scene.things):
        where, part = _window(thing)
        patch = sprite(thing.kind, thing.color, thing.pattern, thing.side)[part]
        alpha = patch[..., 3:]
        image[where] = (1 - alpha) * image[where] + alpha * patch[..., :3]
        amodal[i][where] = alpha[..., 0] > 0.5
        visible[:i] &= ~amodal[i]
        visible[i] = amodal[i]
    boxes = np.array([mask_box(m) for m in amodal], np.int64).reshape(n, 4)
    return Rendered((image * 255 + 0.5).astype(np.uint8), amodal, visible, boxes)


# --- sampling scenes -------------------------------------------------------------------------------------------------


def random_scene(rng: np.random.Generator, n: int | None = None, held_out: bool | None = None) -> Scene:
    """Draw a scene of `n` objects (1 to 4 at random when None, up to 6).

    held_out: False never draws a held-out colour-object pair, True draws at least one, None does not care.
    Nearly all objects stand apart; in one scene of seven they may overlap, each at least 60 % visible.
    """
    n = int(rng.choice([1, 2, 3, 4], p=[0.28, 0.28, 0.24, 0.2])) if n is None else n
    pairs = [p for p in product(KINDS, COLORS) if held_out is not False or p not in HELD_OUT]
    background = str(rng.choice(list(BACKGROUNDS)))
    overlap = n > 1 and rng.random() < 1 / 7
    while True:
        chosen = [pairs[i] for i in rng.choice(len(pairs), n, replace=False)]
        if held_out:
            forced = sorted(HELD_OUT)[rng.integers(len(HELD_OUT))]
            if forced not in chosen:
                chosen[rng.integers(n)] = forced
        scale = [0.3, 0.35, 0.35] if n < 4 else [0.55, 0.35, 0.1] if n == 4 else [1, 0, 0]
        things = []
        for kind, color in chosen:
            size = str(rng.choice(list(SIZES), p=scale))
            side = SIZES[size] + (int(rng.integers(-1, 2)) if n < 5 else -int(rng.integers(0, 2)))
            half = side // 2
            x, y = rng.integers(half, SIDE - (side - half) + 1, 2)
            pattern = PATTERNS[int(rng.random() < 0.3)]
            things.append(Thing(kind, color, pattern, size, side, int(x), int(y)))
        things = _place(rng, things, overlap)
        if things:
            return Scene(background, tuple(things))


def _place(rng, things, overlap):
    """Move the objects until they stand apart (or, with overlap, stay visible); None when they do not fit."""
    placed = []
    for thing in things:
        for _ in range(60):
            half = thing.side // 2
            x, y = rng.integers(half, SIDE - (thing.side - half) + 1, 2)
            candidate = replace(thing, x=int(x), y=int(y))
            if not overlap and all(_apart(candidate, other) for other in placed):
                break
            if overlap and _all_visible([*placed, candidate]):
                break
        else:
            return None
        placed.append(candidate)
    return placed


def _apart(a: Thing, b: Thing) -> bool:
    gap = (a.side + b.side) // 2 + 1
    return abs(a.x - b.x) >= gap or abs(a.y - b.y) >= gap


def _all_visible(things) -> bool:
    drawn = render(Scene("sky", tuple(things)))
    return bool((drawn.visible.sum((1, 2)) >= 0.6 * drawn.amodal.sum((1, 2))).all())


def move(scene: Scene, index: int, dx: int, dy: int) -> tuple[Scene, np.ndarray]:
    """Move one object by whole pixels.

    Returns the edited scene and the exact dense flow (2, 64, 64), float32, in pixels (x then y): (dx, dy) on the
    object's visible pixels in the source image, 0 elsewhere.
    """
    seen = render(scene).visible[index]
    flow = np.stack([seen * np.float32(dx), seen * np.float32(dy)])
    return shifted(scene, [(index, dx, dy)]), flow
