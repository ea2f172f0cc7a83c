"""Pictures of 256 colours: exact where there are few, near where there are many, small things keep their colour."""

import numpy as np
from PIL import Image

from helpers.figures.palette import COLORS, reduced


def test_few_colours_stay_exact():
    picture = np.random.default_rng(0).choice([0, 17, 128, 255], (40, 60, 3)).astype(np.uint8)
    found = reduced(Image.fromarray(picture))
    assert found.mode == "P" and found.size == (60, 40)
    assert (np.asarray(found.convert("RGB")) == picture).all()


def test_transparency_is_dropped_and_one_colour_is_enough():
    found = reduced(Image.new("RGBA", (5, 4), (10, 20, 30, 128)))
    assert (np.asarray(found.convert("RGB")) == (10, 20, 30)).all()


def test_a_small_green_thing_on_a_large_blend_stays_green():
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 1, 300), np.linspace(0, 1, 300))
    blend = np.stack([200 + 50 * x, 170 + 60 * y, 120 + 80 * x * y], -1)
    blend[140:152, 140:152] = (30, 140, 62) + rng.normal(0, 6, (12, 12, 3))
    blend[20:40, 20:40] = (40, 84, 212) + rng.normal(0, 6, (20, 20, 3))
    picture = blend.clip(0, 255).round().astype(np.uint8)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > COLORS
    found = np.asarray(reduced(Image.fromarray(picture)).convert("RGB")).astype(int)
    off = np.abs(found - picture)
    assert off.mean() < 2 and off[140:152, 140:152].mean() < 8
