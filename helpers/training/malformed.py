"""Deliberately malformed objects: what a judge must not recognise.

Every generator draws an RGBA patch (side, side, 4), float32 in [0, 1], in the world's style (outline, colours,
stripes) that shows no object of the world. TRAINING holds the generators that the judge learns from; TESTING holds
others, that it never saw, for the number `judge.reject`.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from helpers.miniature.vocabulary import COLORS, KINDS, PATTERNS
from helpers.miniature.world import OUTLINE, STRIPE, sprite

GRID = 20  # silhouettes are compared at this resolution after cropping to their boxes
LOOKALIKE = 0.78  # a shape whose box-normalised mask overlaps a silhouette more than this (IoU) is no malformed shape


def _crop(mask: np.ndarray) -> np.ndarray:
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    crop = Image.fromarray(mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1])
    return np.asarray(crop.resize((GRID, GRID), Image.Resampling.NEAREST)).ravel()


@cache
def _templates() -> np.ndarray:
    return np.stack([_crop(sprite(kind, "red", "plain", 40)[..., 3] > 0.5) for kind in KINDS])


def likeness(alpha: np.ndarray) -> float:
    """IoU of the mask alpha > .5 with the silhouette most like it, both stretched to the same box; 1 if too small."""
    mask = alpha > 0.5
    if mask.sum() < 60:
        return 1.0
    crop, all_kinds = _crop(mask), _templates()
    return float(((all_kinds & crop).sum(1) / (all_kinds | crop).sum(1)).max())


def paint(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fill a (2 side, 2 side) bool shape like the world does, outline included (mostly), and halve its size."""
    s = len(inside)
    rgb = np.empty((s, s, 3), np.float32)
    rgb[:] = COLORS[str(rng.choice(list(COLORS)))]
    if rng.random() < 0.3:
        rgb[(np.arange(s) * 5 // s) % 2 == 1] = STRIPE
    if rng.random() < 0.8:
        rgb[inside & ~ndimage.binary_erosion(inside, iterations=2)] = OUTLINE
    alpha = inside.astype(np.float32)
    both = np.concatenate([rgb / 255 * alpha[..., None], alpha[..., None]], -1)
    small = both.reshape(s // 2, 2, s // 2, 2, 4).mean((1, 3))
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return small


def _any_sprite(side: int, rng: np.random.Generator) -> np.ndarray:
    return sprite(str(rng.choice(KINDS)), str(rng.choice(list(COLORS))), PATTERNS[int(rng.random() < 0.3)], side).copy()


def _resample(patch: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.map_coordinates(patch[..., c], [ys, xs], order=1) for c in range(4)], -1)


# --- generators for training ------------------------------------------------------------------------------------------


def blob(side, rng):
    """The level set of smooth noise."""
    s = 2 * side
    field = ndimage.gaussian_filter(rng.standard_normal((s, s)), s * rng.uniform(0.07, 0.16))
    y, x = np.mgrid[-1 : 1 : s * 1j, -1 : 1 : s * 1j]
    field = field / field.std() - 2.5 * (x * x + y * y)
    inside, n = ndimage.label(field > np.quantile(field, rng.uniform(0.45, 0.7)))
    sizes = np.bincount(inside.ravel())[1:]
    return paint(inside == 1 + sizes.argmax(), rng)


def polygon(side, rng):
    """A polygon with random corners around the centre."""
    n = rng.integers(4, 11)
    angles = np.sort(rng.uniform(0, 2 * np.pi, n))
    radii = rng.uniform(0.25, 1, n) * side
    picture = Image.new("L", (2 * side, 2 * side))
    ImageDraw.Draw(picture).polygon([(side + r * np.cos(a), side + r * np.sin(a)) for a, r in zip(angles, radii)], 255)
    return paint(np.asarray(picture) > 0, rng)


def warped(side, rng):
    """An object under a strong elastic deformation."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    shift = ndimage.gaussian_filter(rng.standard_normal((2, side, side)), (0, side / 7, side / 7), mode="nearest")
    shift *= side * rng.uniform(0.12, 0.25) / shift.std()
    return _resample(_any_sprite(side, rng), y + shift[0], x + shift[1])


def cut(side, rng):
    """An object of which a straight cut took 40 to 70 %."""
    patch = _any_sprite(side, rng)
    y, x = np.mgrid[:side, :side]
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    solid = patch[..., 3] > 0.5
    patch[..., 3] *= along > np.quantile(along[solid], rng.uniform(0.4, 0.7))
    return patch


def bitten(side, rng):
    """An object with two or three round bites."""
    patch = _any_sprite(side, rng)
    y, x = np.mgrid[:side, :side] / side
    for _ in range(rng.integers(2, 5)):
        cy, cx = rng.uniform(0.1, 0.9, 2)
        patch[..., 3] *= (x - cx) ** 2 + (y - cy) ** 2 > rng.uniform(0.15, 0.3) ** 2
    return patch


def halves(side, rng):
    """Half of one object and half of another."""
    a, b = _any_sprite(side, rng), _any_sprite(side, rng)
    middle = side // 2 + rng.integers(-side // 8, side // 8 + 1)
    if rng.random() < 0.5:
        a[:, middle:] = b[:, middle:]
    else:
        a[middle:] = b[middle:]
    return a


def fused(side, rng):
    """Two objects of one colour that grew together, without an outline between them."""
    color, mask = str(rng.choice(list(COLORS))), np.zeros((2 * side, 2 * side), bool)
    for _ in range(2):
        part = 2 * int(side * rng.uniform(0.55, 0.8))
        y, x = rng.integers(0, 2 * side - part + 1, 2)
        mask[y : y + part, x : x + part] |= sprite(str(rng.choice(KINDS)), color, "plain", part)[..., 3] > 0.5
    return paint(mask, rng)


def faint(side, rng):
    """A half-formed object: blurred away and mixed with noise."""
    patch = _any_sprite(side, rng)
    blurred = ndimage.gaussian_filter(patch, (rng.uniform(0.1, 0.16) * side,) * 2 + (0,))
    blurred[..., :3] += ndimage.gaussian_filter(rng.standard_normal((side, side, 3)), (1.5, 1.5, 0)) * 0.3
    blurred[..., 3] = np.clip(blurred[..., 3] * 1.3, 0, 1)
    return blurred.clip(0, 1)


def patchwork(side, rng):
    """A silhouette-less patch of smooth coloured noise."""
    colors = ndimage.gaussian_filter(rng.standard_normal((side, side, 3)), (side / 6, side / 6, 0))
    patch = blob(side, rng)
    patch[..., :3] = np.clip(0.5 + 0.35 * colors / colors.std(), 0, 1)
    return patch


TRAINING = (blob, polygon, warped, cut, bitten, halves, fused, faint, patchwork)


# --- generators for testing -------------------------------------------------------------------------------------------


def lobes(side, rng):
    """A closed curve r(angle) of a few random harmonics."""
    y, x = np.mgrid[-1 : 1 : 2j * side, -1 : 1 : 2j * side]
    angle, r = np.arctan2(y, x), 0.6
    for k in range(2, 7):
        r = r + rng.uniform(-0.45, 0.45) / k**0.5 * np.cos(k * angle + rng.uniform(0, 6.28))
    return paint(np.hypot(x, y) < np.clip(r, 0.12, 1), rng)


def swirled(side, rng):
    """An object twisted around its centre."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    turn = rng.choice([-1, 1]) * rng.uniform(2, 3.5) * np.exp(-2 * (x * x + y * y))
    xs, ys = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    return _resample(_any_sprite(side, rng), (ys + 1) * (side - 1) / 2, (xs + 1) * (side - 1) / 2)


def shuffled(side, rng):
    """The four quarters of an object in another order."""
    patch, h = _any_sprite(side // 2 * 2, rng), side // 2
    quarters = [patch[:h, :h], patch[:h, h:], patch[h:, :h], patch[h:, h:]]
    order = [(3, 2, 1, 0), (1, 2, 3, 0), (2, 3, 1, 0), (3, 0, 1, 2), (1, 3, 0, 2)][rng.integers(5)]
    a, b, c, d = (quarters[i] for i in order)
    return np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)])


def rods(side, rng):
    """Thick bars through the centre region: crosses, letters, frames."""
    picture = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 4)):
        (x0, y0), (x1, y1) = rng.uniform(0.1, 1.9, (2, 2)) * side
        draw.line([x0, y0, x1, y1], 255, int(side * rng.uniform(0.25, 0.5)))
    return paint(np.asarray(picture) > 0, rng)


def crumbs(side, rng):
    """Five to eight discs that touch."""
    y, x = np.mgrid[-1 : 1 : 2j * side, -1 : 1 : 2j * side]
    inside = np.zeros((2 * side, 2 * side), bool)
    for _ in range(rng.integers(5, 9)):
        cy, cx = rng.uniform(-0.65, 0.65, 2)
        inside |= np.hypot(x - cx, y - cy) < rng.uniform(0.2, 0.34)
    return paint(inside, rng)


def melted(side, rng):
    """An object whose rows slide sideways like a wave."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    wave = side * rng.uniform(0.2, 0.32) * np.sin(y / side * rng.uniform(7, 12) + rng.uniform(0, 6.28))
    return _resample(_any_sprite(side, rng), y, x + wave)


TESTING = (lobes, swirled, shuffled, rods, crumbs, melted)


def malformed(generators, side: int, rng: np.random.Generator) -> np.ndarray:
    """An RGBA patch by one of the generators, (side, side, 4); shapes that look like an object are drawn again."""
    while True:
        patch = generators[rng.integers(len(generators))](side, rng)
        if likeness(patch[..., 3]) < LOOKALIKE:
            return patch.astype(np.float32)
