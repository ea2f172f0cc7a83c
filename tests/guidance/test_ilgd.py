"""iLGD: maps, losses and injection at known values, the paper's steps, both readings of its strength."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from single_steps import LAYOUTS, PROMPTS, begun, context, corner_box, edits, energy, layout, randoms, regions_of

from helpers.backbones.attention import Layers, Recorded, Site
from helpers.guidance.cfg import CFG
from helpers.guidance.ilgd import ILGD, LOSSES, combined, difference
from helpers.sampling.hooks import Window
from helpers.sampling.loop import sample
from helpers.sampling.strength import Exploding, Raw, rms


def test_maps_are_combined_with_weights_of_their_means():
    """Two layers, one of them twice as fine, two heads each: by hand."""
    coarse, fine = randoms(1, 2, 4, 5), randoms(1, 2, 16, 5, seed=1)
    seen = Recorded({Site("a", "cross", "up", (2, 2), 0): coarse, Site("b", "cross", "up", (4, 4), 1): fine})
    tokens = torch.zeros(1, 1, 5, dtype=torch.bool)
    tokens[..., 2:4] = True  # a word of two tokens
    maps = [coarse[..., 2:4].mean(-1).view(2, 2, 2), F.avg_pool2d(fine[..., 2:4].mean(-1).view(2, 4, 4), 2)]
    flat = torch.cat(maps)
    weights = flat.mean((1, 2)).exp()
    expected = (weights[:, None, None] * flat).sum(0) / weights.sum()
    torch.testing.assert_close(combined(seen, tokens, Layers(), (2, 2))[0, 0], expected)


def test_loss_is_bounded_and_the_paper_identity_holds(mini):
    with torch.no_grad():
        ilgd = ILGD.paper(layouts=LAYOUTS, injection=0.0)
        ctx = context(mini, PROMPTS, [ilgd])
        loss, info = energy(ctx, ilgd)
    regions = regions_of(mini, *LAYOUTS)
    maps = combined(ctx.attention, regions.nouns, Layers(), (16, 16))
    boxes = regions.places(16, 16)  # all edges lie between cells
    found = (difference(maps, boxes) * regions.valid).sum(1)
    expected = (maps.sum((2, 3)) - 2 * (maps * boxes).sum((2, 3))) * regions.valid
    torch.testing.assert_close(found, expected.sum(1))
    torch.testing.assert_close(loss, found)
    assert (loss.abs() <= 256 * regions.valid.sum(1)).all()
    share = (maps * boxes).sum((2, 3)) / maps.sum((2, 3)) * regions.valid
    torch.testing.assert_close(info["inside"], torch.where(regions.valid, share, 0))
    torch.testing.assert_close(info["maps"].amax((2, 3))[regions.valid], torch.ones(3))
    assert info["maps"].shape == (2, 2, 16, 16)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_by_finite_differences_and_at_hand_made_maps(name):
    loss, boxes = LOSSES[name], randoms(2, 3, 5, 5, seed=1)
    assert torch.autograd.gradcheck(lambda maps: loss(maps, boxes), randoms(2, 3, 5, 5).requires_grad_(), eps=1e-7)
    box, mass = corner_box(), []
    for inside in (0.1, 0.5, 0.9):
        mass.append(inside * box / 4 + (1 - inside) * (1 - box) / 12)
    falling = [loss(maps, box).item() for maps in mass]
    assert falling == sorted(falling, reverse=True) and falling[0] > falling[2] + 0.1


def test_losses_at_known_values():
    box = corner_box()
    maps = 0.6 * box / 4 + 0.4 * (1 - box) / 12  # of mass 1, six tenths inside
    known = {
        "difference": 0.4 - 0.6,
        "mean_difference": 16 * (0.4 / 12 - 0.6 / 4),
        "squared_share": 0.4**2,
        "log_share": -np.log(0.6),
        "peak": 16 * (0.4 / 12 - 0.6 / 4),
    }
    assert known == pytest.approx({name: loss(maps, box).item() for name, loss in LOSSES.items()}, abs=1e-5)
    for name in ("mean_difference", "squared_share", "log_share", "peak"):
        assert LOSSES[name](7 * maps, box).item() == pytest.approx(known[name], abs=1e-5), "units do not count"


@pytest.mark.parametrize("name", LOSSES)
@torch.no_grad()
def test_padding_counts_in_no_loss(tiny, name):
    together, alone = (ILGD.paper(layouts=layouts, loss=name, window=Window()) for layouts in (LAYOUTS, LAYOUTS[1:]))
    ctx = context(tiny, PROMPTS, [together])
    own = context(tiny, PROMPTS[1:], [alone], x_t=ctx.x_t[1:])
    torch.testing.assert_close(energy(own, alone)[0][0], energy(ctx, together)[0][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_one_small_step_draws_attention_into_the_boxes(mini, name):
    ilgd = ILGD.paper(layouts=LAYOUTS, injection=0.0, loss=name, window=Window())
    ctx = context(mini, PROMPTS, [ilgd])
    loss, info = energy(ctx, ilgd)
    (grad,) = torch.autograd.grad(loss.sum(), ctx.x_t)
    with torch.no_grad():
        x_t = ctx.x_t - 1e-3 * grad / rms(grad)
        less, more = energy(context(mini, PROMPTS, [ilgd], x_t=x_t), ilgd)
    assert (less < loss).all()
    if name != "peak":  # which minds the two maxima alone
        assert (more["inside"].sum(1) > info["inside"].sum(1)).all()


def test_injection_at_hand_made_scores(tiny):
    ilgd = ILGD.paper(layouts=LAYOUTS, injection=0.75)
    ctx = begun(tiny, PROMPTS, [ilgd], i=1)
    (edit,) = edits(ctx, ilgd)
    site = Site("x", "cross", "up", (8, 8), 0)
    scores = randoms(2, 4, 64, 77, dtype=torch.float32) - 0.3
    added = edit.scores(scores, site) - scores
    nu = 0.75 * np.log1p((ctx.level.sigma / ctx.level.alpha).item())
    expected = torch.zeros(2, 4, 8, 8, 77)
    expected[0, :, 2:6, :4, 3] = nu * scores[0, ..., 3].max()  # car: x in [0, .5], y in [.25, .75]
    expected[0, :, 2:6, 5:, 8] = nu * scores[0, ..., 8].max()  # fish: x in [.625, 1]
    expected[1, :, :4, 4:, 3] = nu * scores[1, ..., 3].max()  # ball
    torch.testing.assert_close(added, expected.flatten(2, 3), atol=1e-6, rtol=1e-4)


def test_boxes_of_whole_cells_are_the_papers(mini):
    """A box from 5 to 22 of 64 columns, 4 to 15 rows: in cells of 4, those whose upper left pixel is in it."""
    one = [layout("a red car", red_car=(5 / 64, 4 / 64, 22 / 64, 15 / 64))]
    hard, soft = ILGD.paper(layouts=one), ILGD(layouts=one)
    regions, expected = regions_of(mini, *one), torch.zeros(16, 16)
    expected[1:4, 2:6] = 1
    assert torch.equal(hard.inside(regions, 16, 16)[0, 0], expected)
    assert torch.equal(soft.inside(regions, 16, 16), regions.places(16, 16))
    small = regions_of(mini, layout("a red car", red_car=(5 / 64, 5 / 64, 7 / 64, 7 / 64)))
    assert hard.inside(small, 16, 16).nonzero().tolist() == [[0, 0, 1, 1]], "no region vanishes"
    assert hard.grid(mini.at(64, 96)) == (16, 24) and soft.grid(mini) == (8, 8)


def test_injection_into_the_whole_picture_adds_a_constant_to_one_column(tiny):
    ilgd = ILGD.paper(layouts=[layout("a blue ball", blue_ball=(0, 0, 1, 1))])
    (edit,) = edits(begun(tiny, ["a blue ball"], [ilgd], i=1), ilgd)
    scores = randoms(1, 4, 64, 77, dtype=torch.float32)
    changed = edit.scores(scores, Site("x", "cross", "up", (8, 8), 0))
    added = changed - scores
    assert added[..., 3].std() < 1e-6 and added[..., 3].mean() > 0.5 and added.sum(-1).allclose(added[..., 3])
    assert (changed.softmax(-1)[..., 3] > scores.softmax(-1)[..., 3]).all()


def test_steps_of_the_paper(tiny):
    class Spied(ILGD):
        def edits(self, ctx, state):
            found = super().edits(ctx, state)
            injected.extend([ctx.i] * len(found))
            return found

    injected = []
    run = sample(tiny, PROMPTS[1], [CFG(5), Spied.paper(layouts=LAYOUTS[1:])], steps=50)
    assert injected == list(range(1, 11))
    assert run.curves["spied"][0].isfinite().nonzero().flatten().tolist() == list(range(1, 25))
    assert run.cost.backwards == 24


def test_injected_but_outside_the_loss_window_the_loss_is_zero(tiny):
    late = ILGD.paper(layouts=LAYOUTS, injection_window=Window(), window=Window(0.5, 1.0))
    run = sample(tiny, PROMPTS, [CFG(5), late], steps=4)
    assert (run.curves["ilgd"][:, :2] == 0).all() and (run.curves["ilgd"][:, 2:] != 0).all()
    assert (run.curves["update_rms"][:, :2] == 0).all()


def test_strength_readings_differ_by_the_square_root_of_alpha_bar(tiny):
    sizes = {}
    for rule in (Raw(), Exploding()):
        run = sample(tiny, PROMPTS, [CFG(5), ILGD.paper(layouts=LAYOUTS, window=Window(), strength=rule)], steps=3)
        sizes[type(rule)] = run.curves["update_rms"][:, 0]
        own = run.curves["grad_rms"][:, 0] * 0.32
    alpha = tiny.solver(3).starts[0].alpha.item()
    torch.testing.assert_close(sizes[Exploding] / sizes[Raw], torch.full((2,), 1 / alpha), rtol=1e-4, atol=0)
    assert 1 / alpha > 10 and (own > 0).all()


def test_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss='sum'.*: use one of difference, mean_difference"):
        ILGD.paper(layouts=LAYOUTS, loss="sum")
