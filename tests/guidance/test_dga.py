"""DGA's losses: finite differences, known values, identities; and the method on boxes, masks, mixed counts."""

import numpy as np
import pytest
import torch
from single_steps import context, energy

from helpers.conditions import Layout, Region, encode_mask
from helpers.guidance.cfg import CFG
from helpers.guidance.dga import DGA, TERMS, balance, centroid, coverage, distance, size, soft_box, soft_iou
from helpers.guidance.ilgd import ILGD
from helpers.paths import weights
from helpers.perception.segmenter import Segmenter
from helpers.sampling.hooks import Window
from helpers.sampling.loop import denoise, sample
from helpers.sampling.strength import Raw, rms
from helpers.sampling.trace import Trace

VALID = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])


def blocks(*boxes, side=32):
    """(1, n, side, side) masks of integer pixel boxes (x0, y0, x1, y1)."""
    masks = torch.zeros(1, len(boxes), side, side)
    for n, (x0, y0, x1, y1) in enumerate(boxes):
        masks[0, n, y0:y1, x0:x1] = 1
    return masks


def all_valid(masks):
    return torch.ones(masks.shape[:2], dtype=torch.bool)


def random_masks(seed, side=6):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(3, 3, side, side, generator=g, dtype=torch.float64) * 0.9 + 0.05


@pytest.fixture
def exact(monkeypatch):
    """Small areas as they are, so that values known on paper come out on a 32x32 grid."""
    monkeypatch.setattr("helpers.guidance.dga.FLOOR", 1e-4)


# --- the losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("name", TERMS)
def test_gradient_by_finite_differences(name, boxed):
    targets = random_masks(1)

    def loss(masks):
        return TERMS[name](soft_box(masks) if boxed else masks, targets, VALID)

    masks = random_masks(0).requires_grad_()
    assert torch.autograd.gradcheck(loss, masks, eps=1e-7, atol=1e-5)
    (grad,) = torch.autograd.grad(loss(masks).sum(), masks)
    moved = (grad != 0).flatten(2).any(2)
    assert (moved[1:] == VALID[1:]).all(), "every region that exists gets a gradient, padding none"
    assert moved[0].sum() >= 2  # of three sizes the middle one is pulled both ways alike


@pytest.mark.parametrize("name", TERMS)
def test_zero_at_the_target_and_positive_elsewhere(name, exact):
    one, many = blocks((3, 4, 9, 12)), blocks((3, 4, 9, 12), (15, 10, 25, 20), (2, 20, 8, 30))
    for target in (one, many):
        assert TERMS[name](target, target, all_valid(target)).item() == pytest.approx(0, abs=1e-6)
        other = target.roll((3, 2), (2, 3)).clone()
        other[:, 0, :, :16] = 1
        assert TERMS[name](other, target, all_valid(target)).item() > 0.01


def test_coverage_is_one_minus_iou():
    found, target = blocks((0, 0, 4, 4), (10, 10, 14, 14)), blocks((2, 0, 6, 4), (10, 10, 14, 14))
    torch.testing.assert_close(soft_iou(found, target), torch.tensor([[8 / 24, 1.0]]))
    assert coverage(found, target, all_valid(target)).item() == pytest.approx((1 - 8 / 24) / 2)
    assert coverage(blocks((0, 0, 4, 4)), blocks((8, 8, 12, 12)), torch.ones(1, 1, dtype=bool)).item() == 1


def test_size_compares_ratios(exact):
    target = blocks((0, 0, 4, 4), (10, 10, 18, 14))
    grown = blocks((0, 0, 8, 8), (10, 10, 26, 18))  # both four times as large: the ratio is right
    assert size(grown, target, all_valid(target)).item() == pytest.approx(0, abs=0.02)
    wrong = blocks((0, 0, 8, 8), (10, 10, 18, 14))
    assert size(wrong, target, all_valid(target)).item() == pytest.approx(1 / 3 + 1 / 3)  # areas 64 : 32, not 16 : 32
    assert size(grown[:, :1], target[:, :1], all_valid(target)[:, :1]).item() == pytest.approx((64 - 16) / (64 + 16))


def test_distance_keeps_direction_and_ignores_translation(exact):
    target = blocks((2, 2, 6, 6), (12, 2, 16, 6))
    shifted = target.roll((7, 9), (2, 3))
    diagonal = 32 * 2**0.5
    assert distance(shifted, target, all_valid(target)).item() == pytest.approx(0, abs=2e-3)
    swapped = target.flip(1)
    assert distance(swapped, target, all_valid(target)).item() == pytest.approx(20 / diagonal, abs=5e-3)
    alone = distance(shifted[:, :1], target[:, :1], all_valid(target)[:, :1])
    assert alone.item() == pytest.approx((7**2 + 9**2) ** 0.5 / diagonal, abs=5e-3)


def test_absent_objects_give_finite_losses_and_gradients():
    masks = torch.full((1, 2, 32, 32), 1e-9).requires_grad_()
    target = blocks((2, 2, 6, 6), (12, 2, 20, 12))
    loss = sum(term(masks, target, all_valid(target)) for term in TERMS.values())
    (grad,) = torch.autograd.grad(loss.sum(), masks)
    assert loss.isfinite().all() and grad.isfinite().all() and (grad.flatten(2).abs().amax(2) > 0).all()


def test_padding_changes_nothing():
    found, target = blocks((3, 4, 9, 12), (15, 10, 25, 20)), blocks((1, 4, 9, 13), (15, 12, 27, 20))
    padded = [torch.cat([m, torch.zeros(1, 2, 32, 32)], 1) for m in (found, target)]
    valid = torch.tensor([[True, True, False, False]])
    for term in TERMS.values():
        torch.testing.assert_close(term(*padded, valid), term(found, target, all_valid(target)))


def test_soft_box_is_the_bounding_box_of_a_crisp_mask():
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    disc = ((x - 14) ** 2 + (y - 10) ** 2 <= 36).float()[None, None]
    torch.testing.assert_close(soft_box(disc), blocks((8, 4, 21, 17)))
    box = blocks((5, 6, 20, 11))
    torch.testing.assert_close(soft_box(box), box)
    assert coverage(soft_box(disc), blocks((8, 4, 21, 17)), torch.ones(1, 1, dtype=bool)).item() == 0


def test_balance_is_a_bounded_logarithm():
    a, b = torch.tensor([0.2, 0.05, 0.1, 0.0]), torch.tensor([0.1, 0.2, 0.1, 0.1])
    torch.testing.assert_close(balance(a, b), torch.tanh((a / b).log() / 2))
    assert balance(torch.zeros(1), torch.zeros(1)).item() == 0


def test_centroid(exact):
    box = blocks((4, 8, 12, 12))
    expected = torch.tensor([(7.5 - 15.5), (9.5 - 15.5)]) / (32 * 2**0.5)
    torch.testing.assert_close(centroid(box)[0, 0], expected, atol=2e-3, rtol=0)
    assert centroid(torch.zeros(1, 1, 8, 8)).tolist() == [[[0.0, 0.0]]]


# --- the method ------------------------------------------------------------------------------------------------------


def square(x0, y0, x1, y1):
    mask = np.zeros((64, 64), bool)
    mask[y0:y1, x0:x1] = True
    return encode_mask(mask)


LAYOUTS = [
    Layout(prompt="a red ball", regions=[Region(phrase="red ball", box=(0.1, 0.2, 0.5, 0.7))]),
    Layout(
        prompt="a red ball and a blue ball",
        regions=[Region(phrase="red ball", box=(0, 0, 0.4, 0.4)), Region(phrase="blue ball", box=(0.5, 0.5, 1, 1))],
    ),
    Layout(
        prompt="a car and a fish left of a red ball on the grass",
        regions=[
            Region(phrase="car", mask=square(2, 2, 20, 20)),
            Region(phrase="fish", box=(0.5, 0, 1, 0.4)),
            Region(phrase="red ball", mask=square(30, 40, 60, 60)),
        ],
    ),
]
PROMPTS = [layout.prompt for layout in LAYOUTS]


def test_mixed_counts_equal_one_by_one(tiny, segmenter):
    together = sample(tiny, PROMPTS, [CFG(5), DGA.paper(segmenter=segmenter, layouts=LAYOUTS)], steps=6, batch=3)
    for k, layout in enumerate(LAYOUTS):
        alone = sample(
            tiny, layout.prompt, [CFG(5), DGA.paper(segmenter=segmenter, layouts=[layout])], steps=6, seeds=[k]
        )
        torch.testing.assert_close(alone.images[0], together.images[k], atol=1e-4, rtol=0)
        for name in ("dga", "dga.coverage", "dga.size", "dga.distance"):
            torch.testing.assert_close(
                alone.curves[name][0], together.curves[name][k], atol=1e-4, rtol=1e-4, equal_nan=True
            )
    assert together.cost.backwards == 3 * 5  # the first 70 % of 6 steps: i = 0 ... 4


def test_weights_choose_the_terms(tiny, segmenter):
    run = sample(
        tiny,
        PROMPTS,
        [DGA.paper(segmenter=segmenter, layouts=LAYOUTS, coverage_weight=2.0, size_weight=0.0, distance_weight=3.0)],
        steps=2,
    )
    c = run.curves
    torch.testing.assert_close(c["dga"][:, 0], 2 * c["dga.coverage"][:, 0] + 3 * c["dga.distance"][:, 0])


def test_the_grid_of_the_compared_masks_is_a_setting(tiny, segmenter):
    drawn = {}
    for grid in (64, 32):
        dga = DGA.paper(segmenter=segmenter, layouts=LAYOUTS, grid=grid)
        *_, last = denoise(tiny, PROMPTS, [CFG(5), dga], steps=4)
        assert last.job.states[dga].targets.shape == (3, 3, grid, grid)
        trace = Trace([2])
        drawn[grid] = sample(tiny, PROMPTS, [CFG(5), dga], steps=4, trace=trace)
        assert trace.records[0].maps["dga.masks"].shape[-2:] == (grid, grid)
        assert drawn[grid].images.isfinite().all() and not drawn[grid].warnings
    coarse, fine = drawn[32], drawn[64]
    assert not torch.equal(coarse.images, fine.images)
    first = [run.curves["dga"][:, 0] for run in (coarse, fine)]
    assert not torch.equal(*first)
    torch.testing.assert_close(*first, atol=0.1, rtol=0)  # of the same places, seen less sharply


def test_one_mask_is_in_one_place_to_dga_and_to_ilgd_on_a_wide_picture(tiny, segmenter):
    wide, mask = tiny.at(64, 96), np.zeros((64, 96), bool)
    mask[8:40, 60:90] = True
    one = Layout(prompt="a red ball", regions=[Region(phrase="red ball", mask=encode_mask(mask))])
    both = DGA(segmenter=segmenter, layouts=one), ILGD(layouts=one)
    *_, last = denoise(wide, one.prompt, [CFG(5), *both], steps=4)
    dga, ilgd = (last.job.states[method] for method in both)
    assert torch.equal(ilgd.masks[0, 0], torch.from_numpy(mask).float())
    for seen in (dga.targets[0, 0], ilgd.places(*tiny.latent_shape[1:])[0, 0], ilgd.masks[0, 0]):
        assert seen.mean().item() == pytest.approx(mask.mean(), abs=0.02)
        for axis, middle in ((0, 75 / 96), (1, 24 / 64)):  # of the columns, of the rows
            weight = seen.sum(axis)
            places = (torch.arange(len(weight)) + 0.5) / len(weight)
            assert ((weight * places).sum() / weight.sum()).item() == pytest.approx(middle, abs=0.02)
    run = sample(wide, one.prompt, [CFG(5), *both], steps=4)
    assert run.images.shape == (1, 3, 64, 96) and run.images.isfinite().all() and not run.warnings
    assert run.curves["cosine.dga.ilgd"][0, 0].isfinite(), "both pull at the first step"


def test_zero_weight_is_bit_equal(tiny, segmenter):
    idle = sample(tiny, PROMPTS, [CFG(5), DGA.paper(segmenter=segmenter, layouts=LAYOUTS, weight=0.0)], steps=4)
    assert idle.cost.backwards == 0 and idle.cost.decodes == 3, "the final pictures"
    assert torch.equal(idle.images, sample(tiny, PROMPTS, [CFG(5)], steps=4).images)


@pytest.mark.parametrize(
    ("layouts", "message"),
    [
        (LAYOUTS[:2], "DGA has 2 layouts for 3 prompts: give one for all, or one per image"),
        (LAYOUTS[::-1], "image 0 is drawn from 'a red ball' but its layout is for .* in the order of the prompts"),
    ],
)
def test_layouts_must_fit_the_prompts(tiny, segmenter, layouts, message):
    with pytest.raises(ValueError, match=message):
        sample(tiny, PROMPTS, [DGA(segmenter=segmenter, layouts=layouts)], steps=2)


def test_two_regions_of_one_phrase_are_refused(tiny, segmenter):
    twins = Layout(
        prompt="a ball and a ball",
        regions=[Region(phrase="ball", start=start, box=(0, 0, 1, 0.5)) for start in (2, 13)],
    )
    with pytest.raises(ValueError, match="'ball', which a segmenter cannot tell apart: add a word"):
        sample(tiny, twins.prompt, [DGA(segmenter=segmenter, layouts=[twins])], steps=2)


@pytest.mark.parametrize("term", [*TERMS, "all"])
def test_direction_through_the_trained_models(term, mini):
    """One step of x_t against DGA's gradient lowers DGA's loss, through mini-sd's U-Net, decoder and the guide."""
    guide = Segmenter.load(weights("guide-segmenter"))
    layouts = [
        Layout(
            prompt="a red car left of a blue fish on grass",
            regions=[
                Region(phrase="red car", box=(0.05, 0.3, 0.45, 0.7)),
                Region(phrase="blue fish", box=(0.55, 0.3, 0.95, 0.7)),
            ],
        ),
        Layout(prompt="a green tree in the snow", regions=[Region(phrase="green tree", box=(0.5, 0.1, 0.9, 0.6))]),
    ]
    on = {f"{name}_weight": float(term in (name, "all")) for name in TERMS}
    dga = DGA(segmenter=guide, layouts=layouts, window=Window(0, 1), strength=Raw(), **on)
    prompts = [layout.prompt for layout in layouts]
    ctx = context(mini, prompts, [CFG(5), dga], i=4)
    loss, _ = energy(ctx, dga)
    (grad,) = torch.autograd.grad(loss.sum(), ctx.x_t)
    step = 1e-3 * grad / rms(grad)

    @torch.no_grad()
    def at(change):
        return energy(context(mini, prompts, [CFG(5), dga], i=4, x_t=ctx.x_t + change), dga)[0]

    assert (at(-step) < loss).all() and (at(step) > loss).all()
