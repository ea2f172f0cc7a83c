"""The core of a box, and that DGA is compared with it."""

import pytest
import torch
from single_steps import layout

from helpers.conditions import Layout, Region, encode_mask
from helpers.guidance.cfg import CFG
from helpers.guidance.dga import DGA
from helpers.guidance.dga_free import DGAFree, core, cored
from helpers.sampling.loop import denoise

PROMPT = "a red car left of a blue fish"


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ((16, 16, 40, 40), (16, 16, 40, 40)),  # an object fills it
        ((8, 8, 20, 20), (8, 8, 20, 20)),  # too small: as it is
        ((8, 20, 48, 36), (18, 20, 38, 36)),  # 40 x 16 -> 20 x 16
        ((20, 8, 36, 48), (20, 18, 36, 38)),
        ((0, 0, 64, 64), (16, 16, 48, 48)),  # half the side at most
        ((0, 10, 64, 50), (16, 14, 48, 46)),
    ],
)
def test_the_core_of_a_box(box, found):
    shares = core(tuple(v / 64 for v in box), 64, 64, elongation=1.25, largest=0.5)
    assert tuple(64 * v for v in shares) == pytest.approx(found)


def test_sides_are_compared_in_pixels():
    assert core((0, 0, 0.5, 1), 64, 128, 1.25, 1.0) == pytest.approx((0, 0, 0.5, 1)), "a square of 64 pixels"
    off = 20 / 128  # 32 x 64 -> 32 x 40
    assert core((0, 0, 0.5, 0.5), 128, 64, 1.25, 1.0) == pytest.approx((0, 0.25 - off, 0.5, 0.25 + off)), (
        "32 x 64 -> 32 x 40"
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_core_lies_inside_around_the_same_centre_and_is_its_own(seed):
    x, y = torch.rand(2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sort(1).values.tolist()
    box = (x[0], y[0], x[1], y[1])
    inner = core(box, 64, 96, 1.3, 0.4)
    assert all(a <= b + 1e-12 for a, b in zip(box[:2], inner[:2])) and inner[2] <= box[2] and inner[3] <= box[3]
    assert [inner[0] + inner[2], inner[1] + inner[3]] == pytest.approx([box[0] + box[2], box[1] + box[3]])
    assert core(inner, 64, 96, 1.3, 0.4) == pytest.approx(inner)


def test_masks_stay_and_words_too():
    mask = torch.zeros(8, 8, dtype=bool)
    mask[2:7, 1] = True
    regions = [
        Region(phrase="red car", box=(0, 0, 1, 0.25)),
        Region(phrase="blue fish", mask=encode_mask(mask.numpy())),
    ]
    asked = Layout(prompt=PROMPT, regions=regions)
    got = cored(asked, 64, 64, 1.0, 1.0)
    assert got.regions[1] == asked.regions[1] and got.prompt == PROMPT
    assert got.regions[0] == Region(phrase="red car", box=(0.375, 0, 0.625, 0.25))


def targets(mini, method):
    ctx = next(denoise(mini, PROMPT, [CFG(3), method], steps=2))
    return ctx.job.states[method].targets


def test_dga_is_compared_with_the_cores(mini, segmenter):
    asked = layout(PROMPT, red_car=(0, 0, 0.75, 0.25), blue_fish=(0.5, 0.5, 0.75, 0.75))
    free = DGAFree(layouts=asked, segmenter=segmenter, elongation=1.0, recurrence=DGA.paper(layouts=asked).recurrence)
    got = targets(mini, free)
    assert torch.equal(
        got[0], layout(PROMPT, red_car=(0.25, 0, 0.5, 0.25), blue_fish=(0.5, 0.5, 0.75, 0.75)).masks(64, 64)
    )
    assert free.layouts == asked, "the method stays as it is"
    whole = DGAFree(layouts=asked, segmenter=segmenter, elongation=100.0, largest=1.0)
    assert torch.equal(targets(mini, whole), targets(mini, DGA(layouts=asked, segmenter=segmenter)))
