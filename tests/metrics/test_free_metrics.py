"""How objects lie in free boxes, on cases made by hand."""

import numpy as np
import pytest
from handmade import case

from helpers.judges.base import Found
from helpers.metrics.free import inside, off_centre, reachable, score


def found(kind, color, *box):
    mask = np.zeros((64, 64), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return Found(kind, color, "plain", 0.9, box, mask)


def test_the_share_inside_is_that_of_the_object():
    assert inside((10, 10, 20, 20), (0, 0, 64, 64)) == 1
    assert inside((10, 10, 20, 20), (15, 10, 64, 20)) == 0.5
    assert inside((0, 0, 40, 10), (10, 0, 20, 10)) == 0.25, "a large object in a small box"
    assert inside((10, 10, 20, 20), (30, 30, 40, 40)) == 0


def test_the_distance_is_in_diagonals_of_the_box():
    assert off_centre((10, 10, 20, 20), (0, 0, 30, 30)) == 0
    assert off_centre((25, 35, 35, 45), (0, 0, 60, 80)) == pytest.approx(0)
    assert off_centre((55, 75, 65, 85), (0, 0, 60, 80)) == pytest.approx(0.5), "its centre on the box's corner"


def test_what_can_be_reached_is_the_box_iou_of_the_silhouette():
    mask = np.zeros((64, 64), bool)
    mask[10:30, 10:30] = True
    mask[10, 10] = False  # only its box counts
    assert reachable((10, 10, 30, 30), mask) == 1
    assert reachable((10, 10, 50, 30), mask) == 0.5


def test_the_score_is_a_mean_over_the_regions_and_the_absent_count_zero():
    scene = case(("car", "red", 0, 0, 20, 20), ("ball", "blue", 30, 30, 50, 50))
    got = score(scene, [found("car", "red", 0, 0, 20, 10)])
    assert got["ceiling"] == 1 and got["filled"] == pytest.approx(0.25) and got["inside"] == 0.5
    off = 5 / np.hypot(20, 20)
    assert got["off_centre"] == pytest.approx(off) and got["centred"] == pytest.approx((1 - 2 * off) / 2)
    nothing = score(scene, [])
    assert (nothing["filled"], nothing["inside"], nothing["centred"]) == (0, 0, 0) and np.isnan(nothing["off_centre"])


def test_of_two_objects_the_one_in_the_box_is_meant():
    scene = case(("car", "red", 0, 0, 20, 20))
    far, near = found("car", "red", 40, 40, 60, 60), found("car", "red", 1, 0, 21, 20)
    assert score(scene, [far, near]) == score(scene, [near])
    assert score(scene, [far])["inside"] == score(scene, [far])["centred"] == 0
