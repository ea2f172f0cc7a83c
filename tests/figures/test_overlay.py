"""Masks and wanted places over enlarged pictures."""

import numpy as np
import pytest
from dga_traces import DISC, LAYOUT

from helpers.figures import overlay


def test_a_box_covers_the_pixels_it_names():
    masks = overlay.wanted(LAYOUT.boxes_only(), side=128)
    assert masks.shape == (2, 128, 128)
    rows, columns = np.nonzero(masks[0])
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (16, 64, 16, 64)
    assert masks[0].sum() == 48 * 48


def test_a_silhouette_keeps_its_share_of_the_picture():
    masks = overlay.wanted(LAYOUT.masks_only(), side=256)
    assert masks[0].mean() == pytest.approx(DISC.mean(), rel=0.02)


def test_found_masks_are_filled_and_outlined_and_the_rest_is_left():
    picture = np.full((64, 64, 3), 100, np.uint8)
    over = overlay.draw_found(picture, DISC[None])
    inner = overlay.edge(DISC, 3)
    assert (over[~DISC] == 100).all()
    assert (over[overlay.edge(DISC, 2)] == overlay.rgb(0)).all()
    filled = DISC & ~inner
    np.testing.assert_allclose(over[filled][0], 100 + 0.4 * (overlay.rgb(0) - 100.0), atol=1)
    assert (picture == 100).all(), "the picture itself is not painted on"


def test_wanted_places_change_nothing_but_their_border():
    picture = np.full((256, 256, 3), 100, np.uint8)
    over = overlay.draw_wanted(picture, LAYOUT.boxes_only())
    changed = (over != picture).any(-1)
    border = np.any([overlay.edge(mask, 2) for mask in overlay.wanted(LAYOUT.boxes_only())], 0)
    assert (changed == border).all()


def test_enlarging_repeats_pixels():
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (overlay.enlarge(frame, 4) == frame.repeat(2, 0).repeat(2, 1)).all()
