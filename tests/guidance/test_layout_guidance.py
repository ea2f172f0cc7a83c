"""Layout guidance: its energy at known values, when it stops, how far it moves."""

import pytest
import torch
from single_steps import LAYOUTS, PROMPTS, begun, by_hand, corner_box, moved, randoms, regions_of

from helpers.backbones.attention import Layers
from helpers.guidance.layout_guidance import LayoutGuidance, boxes, outside


def test_energy_at_known_values():
    box, heads = corner_box(8), 3
    layers = Layers(ranks=(1,))
    uniform, inside = torch.ones(1, heads, 8, 8, 4) / 4, torch.zeros(1, heads, 8, 8, 4)
    inside[:, :, :3, :4] = randoms(1, heads, 3, 4, 4, dtype=torch.float32)
    assert outside(*by_hand(inside, box), layers).item() == pytest.approx(0, abs=1e-12)
    assert outside(*by_hand(1 - box[..., None].expand(1, 3, 8, 8, 4), box), layers).item() == pytest.approx(1)
    assert outside(*by_hand(uniform, box), layers).item() == pytest.approx((1 - 1 / 4) ** 2)
    mixed = torch.stack([uniform[:, 0], inside[:, 0], inside[:, 1]], 1)
    assert outside(*by_hand(mixed, box), layers).item() == pytest.approx((1 - 1 / 4) ** 2 / 3), "a mean over heads"
    phrase = torch.tensor([[[False, True, True, False]]])
    half = torch.cat([uniform[..., :2], inside[..., 2:]], -1)
    assert outside(*by_hand(half, box, phrase), layers).item() == pytest.approx(0.75**2 / 2), "and over tokens"


def test_energy_is_a_mean_over_the_regions_that_exist():
    boxes, uniform = torch.cat([corner_box(8), torch.ones(1, 1, 8, 8)], 1), torch.ones(1, 2, 8, 8, 4) / 4
    seen, regions = by_hand(uniform, boxes)
    assert outside(seen, regions, Layers()).item() == pytest.approx(0.75**2 / 2)
    regions.valid[0, 1] = False
    assert outside(seen, regions, Layers()).item() == pytest.approx(0.75**2)


def test_boxes_are_hard_with_corners_rounded_down():
    pixels = torch.zeros(1, 2, 32, 32)
    pixels[0, 0, 4:15, 5:22] = 1  # in cells of 4: rows 1 to 3.75, columns 1.25 to 5.5
    pixels[0, 1, 5:7, 9:20] = 1  # rows 1.25 to 1.75, columns 2.25 to 5
    seen, regions = by_hand(torch.ones(1, 1, 8, 8, 4), pixels)
    expected = torch.zeros(1, 2, 8, 8)
    expected[0, 0, 1:3, 1:5] = expected[0, 1, 1:2, 2:5] = 1
    assert torch.equal(boxes(regions, next(iter(seen.maps))).view(1, 2, 8, 8), expected)


def test_layout_guidance_stops_at_the_energy_that_is_asked_for(mini):
    """After the gradient that found it, and for good: the step after asks what was seen before."""
    method = LayoutGuidance.paper(layouts=LAYOUTS)
    first = begun(mini, PROMPTS, [method])
    moved(first, method)
    energies = first.curves["layoutguidance"]
    better, worse = energies.argmin().item(), energies.argmax().item()
    assert energies[better] < energies[worse]
    stopping = LayoutGuidance(layouts=LAYOUTS, scale=3.0, above=energies.min().item() + 1e-3, most=3)
    ctx = begun(mini, PROMPTS, [stopping])
    x_t = moved(ctx, stopping)
    assert not torch.equal(x_t[better], ctx.x_t[better]) and not torch.equal(x_t[worse], ctx.x_t[worse])
    assert ctx.cost.forwards == ctx.cost.backwards == 1 + 3, "once for the better, up to three times for the worse"
    before, ctx.x_t = ctx.cost.forwards, x_t
    again = moved(ctx, stopping)
    assert torch.equal(again[better], x_t[better]) and not torch.equal(again[worse], x_t[worse])
    assert before < ctx.cost.forwards <= before + 3 and ctx.curves["layoutguidance"][better] == 0


def test_layout_guidance_reads_mid_and_up_blocks_and_moves_by_the_variance(mini):
    method = LayoutGuidance.paper(layouts=LAYOUTS, most=1)
    ctx = begun(mini, PROMPTS, [method])
    layers = ctx.job.states[method].layers
    with mini.attention(2, [layers]) as seen:
        mini.predict(ctx.x_t, ctx.t, ctx.job.text)
    assert {(site.place, min(site.grid)) for site in seen.maps} == {("up", 8), ("up", 16)}, "its mid block has 4 x 4"
    for i in (1, 7):
        step = begun(mini, PROMPTS, [method], i=i)
        step.x_t.requires_grad_()
        with mini.attention(2, [layers]) as seen:
            mini.predict(step.x_t, step.t, step.job.text)
            (grad,) = torch.autograd.grad(outside(seen, regions_of(mini, *LAYOUTS), layers).sum(), step.x_t)
        expected = -30 * step.level.sigma**2 * grad
        torch.testing.assert_close(moved(step, method) - step.x_t.detach(), expected, rtol=1e-3, atol=1e-5)
