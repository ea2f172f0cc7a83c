"""BoxDiff's losses at known values and by finite differences."""

import pytest
import torch
from single_steps import LAYOUTS, by_hand, corner_box, randoms

from helpers.guidance.attend_excite import subject_maps
from helpers.guidance.boxdiff import BoxDiff, boxed, corners, largest
from helpers.sampling.regions import crisp


def test_largest_is_the_mean_of_the_k_largest():
    values = torch.tensor([[1.0, 5, 3, 2], [1, 5, 3, 2], [4, 4, 0, 0]])
    torch.testing.assert_close(largest(values, torch.tensor([2.9, 0.3, 4.0])), torch.tensor([4.0, 5.0, 2.0]))


def test_box_losses_at_known_values():
    box, maps = corner_box(), torch.zeros(1, 1, 4, 4)
    maps[0, 0] = torch.tensor([[0.7, 0.2, 0.0, 0.0], [0.1, 0.3, 0.4, 0.0], [0.0, 0.0, 0.0, 0.6], [0.0, 0.0, 0.0, 0.0]])
    inside = 1 - 0.7  # the largest of .2 * 4 cells, at least one
    out = (0.6 + 0.4) / 2  # .2 * 12 = 2 cells
    across = (abs(0.7 - 1) + abs(0.3 - 1) + abs(0.4 - 0)) / 3  # columns 0, 1, 2: the edges and one beyond
    down = (abs(0.7 - 1) + abs(0.4 - 1) + abs(0.6 - 0)) / 3
    assert corners(maps, box).item() == pytest.approx(across + down)
    valid = torch.ones(1, 1, dtype=torch.bool)
    assert boxed(maps, box, valid).item() == pytest.approx(inside + out + across + down)
    assert boxed(box, box, valid).item() == pytest.approx(0)
    padded = [torch.cat([kind, torch.zeros_like(kind)], 1) for kind in (maps, box)]
    assert boxed(*padded, torch.tensor([[True, False]])).item() == pytest.approx(inside + out + across + down)


def test_corners_of_inner_and_of_whole_boxes():
    inner, whole = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    inner[..., 2:6, 2:6] = 1
    assert corners(torch.zeros(1, 1, 8, 8), inner).item() == pytest.approx(2 * 4 / 6)  # cells 1-3 and 4-6, 2-5 in it
    assert corners(torch.zeros(1, 1, 8, 8), whole).item() == pytest.approx(2)
    assert corners(whole, whole).item() == 0


def test_box_loss_by_finite_differences():
    boxes, valid = crisp(randoms(2, 3, 6, 6, seed=1)), torch.tensor([[True, True, True], [True, False, False]])
    assert torch.autograd.gradcheck(lambda maps: boxed(maps, boxes, valid), randoms(2, 3, 6, 6).requires_grad_())


def test_boxdiff_refines_only_when_asked():
    assert not BoxDiff(layouts=LAYOUTS).refined.pairs and not BoxDiff.paper(layouts=LAYOUTS).refined.pairs
    assert BoxDiff(layouts=LAYOUTS, refined={0: 0.2}).settings()["refined"] == [[0, 0.2]]
    assert BoxDiff.paper(layouts=LAYOUTS).scale == 20


def test_the_loss_reads_the_fullest_cells_of_a_small_region(tiny):
    shares = torch.zeros(1, 1, 8, 8)
    shares[0, 0, 2, 2:4] = torch.tensor([0.4, 0.2])
    seen, regions = by_hand((5 * randoms(1, 3, 8, 8, 77, dtype=torch.float32)).softmax(-1), shares)
    boxdiff, cell = BoxDiff(layouts=LAYOUTS), (shares == 0.4).float()
    maps = subject_maps(seen, regions.nouns, boxdiff.reads, tiny.tokens)
    assert torch.equal(boxdiff.loss(seen, regions, tiny.tokens), boxed(maps, cell, regions.valid))
