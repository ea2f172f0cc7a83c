"""Methods' colours: the same everywhere, and told apart by readers who do not see all of them."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from helpers.experiments.methods import names
from helpers.figures import overlay
from helpers.figures.style import BASE
from helpers.widgets.colors import METHODS, OTHERS, color_of

SEEN = {  # Machado, Oliveira, Fernandes (2009), severity 1: what linear RGB becomes
    "all": np.eye(3),
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
APART = 11  # CIE 1976 difference; about 2 can be seen side by side


def lab(color: str, sees: str) -> np.ndarray:
    value = np.array(to_rgb(color))
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    share = TO_XYZ @ np.clip(np.array(SEEN[sees]) @ linear, 0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sees", SEEN)
def test_colours_that_can_meet_are_told_apart(sees):
    own = {BASE, *METHODS.values()}
    pairs = [*combinations(own, 2), *((other, one) for other in OTHERS for one in own)]
    close = {pair: round(float(np.linalg.norm(lab(pair[0], sees) - lab(pair[1], sees))), 1) for pair in pairs}
    assert min(close.values()) >= APART, sorted((value, pair) for pair, value in close.items())[:4]


@pytest.mark.parametrize("sees", SEEN)
def test_regions_of_one_picture_are_told_apart(sees):
    """Up to four, as captions of the miniature world have; five and six add yellow and orange."""
    close = [np.linalg.norm(lab(a, sees) - lab(b, sees)) for a, b in combinations(overlay.COLORS[:4], 2)]
    assert min(close) >= APART


def test_a_method_has_one_colour_and_its_baseline_is_grey():
    assert all(color_of(name) == color_of(name) != BASE for name in names())
    assert color_of("dga", acts=False) == BASE
    assert color_of("injection") == color_of("ilgd"), "one method"
    assert color_of("layout_guidance") != color_of("dga"), "they act together"
