"""BoxDiff's losses at known values and by finite differences."""

import pytest
import torch
from single_steps import LAYOUTS, by_hand, corner_box, randoms

from helpers.guidance.boxdiff import BoxDiff, boxed, corners, inside, largest
from helpers.sampling.regions import crisp


def test_largest_is_the_mean_of_the_k_largest():
    values = torch.tensor([[1.0, 5, 3, 2], [1, 5, 3, 2], [4, 4, 0, 0]])
    torch.testing.assert_close(largest(values, torch.tensor([2.9, 0.3, 4.0])), torch.tensor([4.0, 5.0, 2.0]))


def test_box_losses_at_known_values():
    box, maps = corner_box(), torch.zeros(1, 1, 4, 4)
    maps[0, 0] = torch.tensor([[0.7, 0.2, 0.0, 0.0], [0.1, 0.3, 0.4, 0.0], [0.0, 0.0, 0.0, 0.6], [0.0, 0.0, 0.0, 0.0]])
    within = 1 - 0.7  # the largest of .2 * 4 cells, at least one
    out = (0.6 + 0.4) / 2  # .2 * 12 = 2 cells
    # by columns: 0 and 1 are near x0 = 0, 1 to 3 near x1 = 2, all of 4 count in the mean
    across = (abs(0.7 - 1) + abs(0.3 - 1) + abs(0.4 - 0) + abs(0.6 - 0)) / 4
    down = (abs(0.7 - 1) + abs(0.4 - 1) + abs(0.6 - 0) + 0) / 4
    assert corners(maps, box).item() == pytest.approx(across + down)
    valid = torch.ones(1, 1, dtype=torch.bool)
    assert inside(maps, box).item() == pytest.approx(within)
    assert boxed(maps, box, valid).item() == pytest.approx(within + out + across + down)
    assert boxed(box, box, valid).item() == pytest.approx(0)
    padded = [torch.cat([kind, torch.zeros_like(kind)], 1) for kind in (maps, box)]
    assert boxed(*padded, torch.tensor([[True, False]])).item() == pytest.approx(within + out + across + down)


def test_corners_of_inner_and_of_whole_boxes():
    inner, whole, empty = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    inner[..., 2:5, 2:5] = 1
    assert corners(empty, inner).item() == pytest.approx(2 * 3 / 8)  # near 2 and 5: 1 to 6, of which 2 to 4 are wanted
    assert corners(empty, whole).item() == pytest.approx(2 * 3 / 8)  # near 0 and 8: 0, 1 and 7
    assert corners(whole, whole).item() == 0


def test_box_loss_by_finite_differences():
    boxes, valid = crisp(randoms(2, 3, 6, 6, seed=1)), torch.tensor([[True, True, True], [True, False, False]])
    assert torch.autograd.gradcheck(lambda maps: boxed(maps, boxes, valid), randoms(2, 3, 6, 6).requires_grad_())


def test_boxdiff_refines_as_its_authors_do():
    """On the worst inner loss alone, whatever lies outside."""
    for method in (BoxDiff(layouts=LAYOUTS), BoxDiff.paper(layouts=LAYOUTS)):
        assert method.refined.settings() == [[0.0, 0.05], [0.2, 0.5], [0.4, 0.8]] and method.most == 20
    assert BoxDiff.paper(layouts=LAYOUTS).scale == 20
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 0, 0], maps[0, 1, 3, 3] = 0.9, 1.0  # inside; only outside
    _, regions = by_hand(maps[..., None].expand(-1, -1, -1, -1, 3), corner_box().expand(1, 2, 4, 4))
    assert BoxDiff(layouts=LAYOUTS).unreached(maps, regions).item() == pytest.approx(1)
    maps[0, 1, 1, 1] = 0.4
    assert BoxDiff(layouts=LAYOUTS).unreached(maps, regions).item() == pytest.approx(0.6)
    regions.valid[0, 1] = False
    assert BoxDiff(layouts=LAYOUTS).unreached(maps, regions).item() == pytest.approx(0.1)


def test_the_loss_reads_rounded_boxes():
    """Right and lower edge exclusive, and a cell where there is less than half of one."""
    pixels = torch.zeros(1, 2, 32, 32)
    pixels[0, 0, 4:15, 5:22] = 1  # in cells of 4: rows 1 to 3.75, columns 1.25 to 5.5
    pixels[0, 1, 5:6, 10:11] = 1
    maps = randoms(1, 2, 8, 8, dtype=torch.float32)
    _, regions = by_hand(maps[..., None].expand(-1, -1, -1, -1, 3), pixels)
    boxes = torch.zeros(1, 2, 8, 8)
    boxes[0, 0, 1:4, 1:6] = 1
    boxes[0, 1, 1, 2] = 1
    assert torch.equal(BoxDiff(layouts=LAYOUTS).loss(maps, regions), boxed(maps, boxes, regions.valid))
