"""DMA: the reference flow and the losses on values known on paper, gradients by finite differences, and the method."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hand_drags import DRAGS, ONE, PROMPTS, TWO_OBJECTS, A, B, Blocks, Centroids, dma, drag, patches, picture

from helpers.backbones.load import wrap
from helpers.conditions import Drag, Move, encode_image, encode_mask
from helpers.guidance.cfg import CFG
from helpers.guidance.dma import (
    DMA,
    _shown,
    appearance,
    decaying,
    displacement,
    inside,
    rigid,
    semantic,
    splat,
    warp,
)
from helpers.perception.disturbed import DisturbedClicks, DisturbedFlow
from helpers.sampling.hooks import Window
from helpers.sampling.inversion import Inverted, invert
from helpers.sampling.inversion import trajectory as recorded
from helpers.sampling.loop import denoise, sample
from helpers.sampling.strength import Raw, rms
from helpers.sampling.trace import Trace

STEPS = 4


def block(x0, y0, x1, y1, side=64):
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def constant(dx, dy, batch=1, side=64):
    return torch.tensor([dx, dy], dtype=torch.float32)[None, :, None, None].expand(batch, 2, side, side)


@pytest.fixture(scope="module")
def trajectory(tiny):
    return invert(tiny, torch.stack([d.image() for d in DRAGS]), PROMPTS, STEPS, passes=2)


@pytest.fixture
def ready(make_context, tiny):
    """A DMA, what its setup made for a run of 10 steps, and one of these."""

    def prepare(drags, **options):
        prompts = [d.prompt for d in drags]
        trajectory = invert(tiny, torch.stack([d.image() for d in drags]), prompts, 10, passes=1)
        method = dma(drags, trajectory=trajectory, **options)
        ctx = make_context(tiny, prompts, [method])
        return method, ctx.job.states[method], ctx

    return prepare


# --- the reference flow ----------------------------------------------------------------------------------------------


def test_one_handle_moves_its_whole_object():
    mask, handle, way = block(8, 20, 24, 36), torch.tensor([[10.0, 22.0]]), torch.tensor([[7.0, -3.0]])
    flow = rigid(mask, handle, way, 0.01)
    assert torch.equal(flow, mask * torch.tensor([7.0, -3.0])[:, None, None])


def test_decaying_flow_is_a_gaussian_around_the_handle():
    mask, handle, way = block(8, 20, 24, 36), torch.tensor([[10.0, 22.0]]), torch.tensor([[7.0, -3.0]])
    flow = decaying(mask, handle, way, 0.05)
    s = 0.05 * 64 * 2**0.5
    torch.testing.assert_close(flow[:, 22, 10], way[0])
    torch.testing.assert_close(flow[:, 25, 14], way[0] * np.exp(-(3**2 + 4**2) / (2 * s**2)).astype(np.float32))
    assert not flow[:, ~mask].any()


def test_between_two_handles_the_flow_turns_from_one_way_to_the_other():
    mask, handles = block(8, 20, 25, 36), torch.tensor([[10.0, 28.0], [22.0, 28.0]])
    ways = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    flow = rigid(mask, handles, ways, 0.03)
    torch.testing.assert_close(flow[:, 28, 16], torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(flow[:, 28, 8], ways[0], atol=1e-2, rtol=0)
    torch.testing.assert_close(flow[:, 28, 24], ways[1], atol=1e-2, rtol=0)
    torch.testing.assert_close(flow.sum(0)[mask], torch.full((int(mask.sum()),), 4.0))  # the shares add up to 1


def test_far_from_a_handle_the_rigid_flow_is_finite():
    flow = rigid(block(0, 0, 64, 64), torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 2.0]]), 1e-4)
    assert torch.equal(flow[:, 63, 63], torch.tensor([1.0, 2.0]))


# --- warping ---------------------------------------------------------------------------------------------------------


def test_warping_back_undoes_a_shift():
    source = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    moved = source.roll((-3, 7), (2, 3))  # what was at p is at p + (7, -3)
    seen = inside(constant(7, -3))
    back = warp(moved, constant(7, -3))
    torch.testing.assert_close(back[:, :, seen[0]], source[:, :, seen[0]], atol=1e-4, rtol=0)
    assert torch.equal(seen[0], block(0, 3, 57, 64))
    torch.testing.assert_close(warp(source, constant(0, 0)), source, atol=1e-4, rtol=0)


def test_warping_by_half_a_pixel_averages():
    image = torch.arange(64.0).expand(1, 1, 64, 64)
    torch.testing.assert_close(warp(image, constant(0.5, 0))[..., :63], image[..., :63] + 0.5, atol=1e-4, rtol=0)


def test_splat_moves_a_mask_and_drops_what_leaves():
    masks = torch.stack([block(8, 20, 24, 36), block(0, 0, 10, 10)])
    flow = torch.cat([constant(5, -2), constant(-4, 0)])
    assert torch.equal(splat(masks, flow), torch.stack([block(13, 18, 29, 34), block(0, 0, 6, 10)]))


# --- the losses ------------------------------------------------------------------------------------------------------


def test_displacement_is_the_mean_way_that_is_missing():
    seen = block(8, 20, 24, 36)[None].float()
    missing = displacement(constant(0, 0), constant(6, -8), seen)
    assert missing.item() == pytest.approx(14 / (64 * 2**0.5))
    assert displacement(constant(6, -8), constant(6, -8), seen).item() == 0
    assert displacement(constant(0, 0), constant(6, -8), torch.zeros_like(seen)).item() == 0


def test_appearance_and_semantic_look_at_the_object_only():
    seen = block(8, 20, 24, 36)[None].float()
    source = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    other = torch.where(seen[:, None] > 0, source, 1 - source)
    assert appearance(other, source, seen).item() == 0 and semantic(patches(other), patches(source), seen).item() < 1e-6
    assert appearance(source + 0.25, source, seen).item() == pytest.approx(0.25)
    opposite = -patches(source)
    assert semantic(opposite, patches(source), seen).item() == pytest.approx(2)


@pytest.mark.parametrize("term", ["displacement", "appearance", "semantic"])
def test_gradients_by_finite_differences(term):
    g = torch.Generator().manual_seed(0)
    source, image = (torch.rand(2, 3, 16, 16, generator=g, dtype=torch.float64) for _ in range(2))
    seen = torch.rand(2, 16, 16, generator=g, dtype=torch.float64)
    flow = torch.randn(2, 2, 16, 16, generator=g, dtype=torch.float64)

    def loss(image):
        if term == "displacement":
            return displacement(Centroids()(source, image), flow, seen)
        warped = warp(image, flow)
        if term == "appearance":
            return appearance(warped, source, seen)
        return semantic(patches(warped), patches(source), seen)

    assert torch.autograd.gradcheck(loss, image.requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("term", ["displacement", "appearance", "semantic"])
def test_losses_fall_on_the_way_to_the_target(term, ready, make_context):
    """The object drawn nearer and nearer to its target, the last step there."""
    method, state, ctx = ready([ONE])
    dx, dy = 10, 6
    values = []
    for share in (0, 0.5, 1):
        x, y = round(share * dx), round(share * dy)
        edited = drag([(A[0] + x, A[1] + y, A[2] + x, A[3] + y), B], [((15, 27), (25, 33))])
        ctx.image = edited.image()[None]
        _, info = method.energy(ctx, state)
        values.append(info[term].item())
    # the stand-in's flow is that of both blocks' common centroid: it never quite says 10 and 6
    assert values[0] > values[1] > values[2] and (term == "displacement" or values[2] == pytest.approx(0, abs=1e-4))


# --- masks -----------------------------------------------------------------------------------------------------------


def test_handles_of_one_object_share_a_mask_and_objects_have_their_own(ready):
    _, state, _ = ready(DRAGS)
    one, two, both = state.mask
    assert torch.equal(one, block(*A)) and torch.equal(two, block(*A)) and torch.equal(both, block(*A) | block(*B))
    flow = state.wanted[2]
    assert (flow[:, block(*A)] == torch.tensor([[0.0], [-12.0]])).all()
    assert (flow[:, block(*B)] == torch.tensor([[-5.0], [5.0]])).all()
    assert not flow[:, ~both].any()


def test_a_pixel_that_two_masks_share_goes_with_the_first_object(ready):
    """Two objects side by side whose masks are drawn too wide, and overlap."""
    beside = (30, 20, 46, 36)
    asked = drag([A, beside], [((15, 27), (15, 37)), ((38, 27), (38, 22))])
    _, state, _ = ready([asked], clicks=DisturbedClicks(Blocks(), 4))
    first, second = block(4, 16, 28, 40), block(26, 16, 50, 40)
    assert (first & second).any() and torch.equal(state.mask[0], first | second)
    down, up = torch.tensor([[0.0], [10.0]]), torch.tensor([[0.0], [-5.0]])
    torch.testing.assert_close(state.wanted[0][:, first], down.expand(-1, int(first.sum())))
    torch.testing.assert_close(state.wanted[0][:, second & ~first], up.expand(-1, int((second & ~first).sum())))


def test_the_drags_own_mask_replaces_the_segmenters(ready):
    own = block(10, 22, 20, 32)
    given = drag([A, B], [((15, 27), (25, 33))], mask=encode_mask(own.numpy()))
    method, state, _ = ready([given])
    assert torch.equal(state.mask[0], own) and method.clicks.calls == 0


def test_partly_outside_only_what_stays_inside_counts(ready):
    method, state, ctx = ready([drag([A, B], [((20, 27), (8, 27))])])  # 12 to the left: x from 8 - 12
    assert torch.equal(state.seen[0] > 0, block(12, 20, 24, 36))
    loss, info = method.energy(ctx, state)
    assert loss.isfinite() and not info["error"][0, :, :12].any()


def test_the_background_region_holds_no_pixel_of_the_object_before_or_after(ready):
    _, state, _ = ready([ONE], margin=0)
    kept = ~F.interpolate(state.region.float(), (64, 64))[0, 0].bool()
    assert not (kept & (block(*A) | block(18, 26, 34, 42))).any() and kept[block(*B)].all()
    _, wide, _ = ready([ONE], margin=1)
    assert wide.region.sum() > state.region.sum()


# --- the method ------------------------------------------------------------------------------------------------------


def test_zero_weight_is_the_inverted_source_bit_for_bit(tiny, trajectory):
    plain = sample(tiny, PROMPTS, [CFG(3), Inverted(trajectory=trajectory)], steps=STEPS)
    for off in ({"weight": 0.0}, {"strength": Raw(0)}):
        idle = sample(tiny, PROMPTS, [CFG(3), dma(trajectory=trajectory, blend=Window(0, 0), **off)], steps=STEPS)
        assert idle.cost.backwards == 0 and torch.equal(idle.images, plain.images)


def test_the_background_stays(tiny, trajectory):
    *_, last = denoise(tiny, PROMPTS, [CFG(3), dma(trajectory=trajectory, weight=1e4)], steps=STEPS)
    run = sample(tiny, PROMPTS, [CFG(3), dma(trajectory=trajectory, weight=1e4)], steps=STEPS)
    state = next(state for method, state in last.job.states.items() if isinstance(method, DMA))
    kept = ~state.region.expand_as(run.latents)
    assert torch.equal(run.latents[kept], trajectory.latents[-1][kept])
    assert (run.latents - trajectory.latents[-1])[~kept].abs().max() > 0.1


def test_without_a_trajectory_the_sources_are_inverted_and_counted(tiny):
    run = sample(tiny, ONE.prompt, [dma([ONE], weight=0.0)], steps=2)
    assert run.cost.forwards == 2 + 2 * (5 + 1)
    trajectory = invert(tiny, ONE.image()[None], [ONE.prompt], 2)
    given = sample(tiny, ONE.prompt, [dma(ONE, weight=0.0, trajectory=trajectory)], steps=2)
    assert given.cost.forwards == 2 and torch.equal(given.images, run.images)


def test_a_recorded_trajectory_draws_the_same_picture_again(tiny):
    drawn = sample(tiny, PROMPTS[:2], [CFG(5)], steps=STEPS, batch=1)
    trajectory = recorded(denoise(tiny, PROMPTS[:2], [CFG(5)], steps=STEPS, batch=1))
    source = encode_image((drawn.images[0] * 255).round().byte().permute(1, 2, 0).numpy())
    moves = [Move(handle=(0.5, 0.5), target=(0.6, 0.5))]
    mask = encode_mask(block(20, 20, 40, 40).numpy())
    again = [Drag(prompt=p, source=source, moves=moves, mask=mask) for p in PROMPTS[:2]]
    methods = [CFG(5), dma(again, trajectory=trajectory, weight=0.0)]
    run = sample(tiny, PROMPTS[:2], methods, steps=STEPS, seeds=[8, 9], batch=1)
    assert torch.equal(run.images, drawn.images)


def test_mixed_drags_equal_one_by_one(tiny, trajectory):
    together = sample(tiny, PROMPTS, [CFG(3), dma()], steps=STEPS, batch=3)
    for k, one in enumerate(DRAGS):
        alone = sample(tiny, one.prompt, [CFG(3), dma([one])], steps=STEPS, seeds=[k])
        torch.testing.assert_close(alone.images[0], together.images[k], atol=1e-3, rtol=0)
        for name in ("dma.displacement", "dma.appearance", "dma.semantic"):
            torch.testing.assert_close(
                alone.curves[name][0], together.curves[name][k], atol=1e-3, rtol=1e-3, equal_nan=True
            )


def test_weights_choose_the_terms(tiny, trajectory):
    method = dma(trajectory=trajectory, displacement_weight=2.0, appearance_weight=0.0, semantic_weight=3.0)
    c = sample(tiny, PROMPTS, [method], steps=STEPS).curves
    torch.testing.assert_close(c["dma"][:, 0], 2 * c["dma.displacement"][:, 0] + 3 * c["dma.semantic"][:, 0])


def test_direction_and_finite_differences_through_the_loop(make_context, make_pipeline):
    """One step of x_t against the gradient lowers L_DMA, through U-Net, CFG, decoder and nets, in double precision."""
    double = wrap(make_pipeline().to(torch.float64))
    trajectory = invert(double, torch.stack([d.image() for d in DRAGS]), PROMPTS, 10, passes=1)
    methods = [CFG(3), dma(trajectory=trajectory)]
    ctx = make_context(double, PROMPTS, methods)
    loss, _ = methods[1].energy(ctx, ctx.job.states[methods[1]])
    (grad,) = torch.autograd.grad(loss.sum(), ctx.x_t)
    step = 0.02 * grad / rms(grad)

    @torch.no_grad()
    def at(change):
        other = make_context(double, PROMPTS, methods, x_t=ctx.x_t + change)
        return methods[1].energy(other, other.job.states[methods[1]])[0]

    assert (at(-step) < loss).all() and (at(step) > loss).all()


def test_a_trace_keeps_signed_flows(tiny, trajectory, tmp_path):
    trace = Trace([2])
    run = sample(tiny, PROMPTS, [CFG(3), dma(trajectory=trajectory)], steps=STEPS, trace=trace)
    assert torch.equal(run.images, sample(tiny, PROMPTS, [CFG(3), dma(trajectory=trajectory)], steps=STEPS).images)
    (record,) = Trace.load(trace.save(tmp_path / "trace")).records
    assert record.drag == TWO_OBJECTS
    assert record.maps["dma.flow"].shape == (STEPS, 2, 64, 64) and record.maps["dma.flow"].dtype == np.float16
    assert record.maps["dma.reference"][0].min() == -12 and record.maps["dma.reference"][0].max() == 5
    assert record.maps["dma.mask"].dtype == record.maps["dma.error"].dtype == np.uint8
    assert np.isfinite(record.curves["dma.semantic"]).all()


def test_maps_of_large_images_are_kept_small():
    flow = constant(3, -2, batch=2, side=512)
    assert torch.equal(_shown(flow), constant(3, -2, batch=2)) and _shown(flow[:, 0]).shape == (2, 64, 64)


@pytest.mark.parametrize(
    ("drags", "prompts", "message"),
    [
        (DRAGS[:2], PROMPTS, "DMA has 2 drags for 3 prompts: give one for all, or one per image"),
        (DRAGS[:1], ["a car"], "image 0 is drawn from 'a car' but its drag is for 'a red ball'"),
        (
            [drag([A], [((50, 50), (40, 40))])],
            ["a red ball"],
            r"no object at the handle \(0.78.* or give the drag a mask",
        ),
        (
            [drag([], [((5, 5), (9, 9))], source=encode_image(picture(size=32)))],
            ["a red ball"],
            "source image of 'a red ball' is 32x32, the backbone draws 64x64: resize",
        ),
        (
            [drag([(31, 20, 32, 36)], [((31, 27), (63.5, 27))])],  # a column of pixels, to the picture's very edge
            ["a red ball"],
            r"no pixel of the object at \(0.49.* stays in the picture on its way to \(1.0.*: put the target less far",
        ),
        (
            [drag([A, B], [((15, 27), (20, 27)), ((51, 45), (-0.5, 45))])],  # one of two objects leaves
            ["a red ball"],
            r"no pixel of the object at \(0.80.* stays in the picture",
        ),
        (7, ["a red ball"], "DMA was given 7: give a Drag, or one per image in a list"),
    ],
)
def test_refusals(tiny, drags, prompts, message):
    with pytest.raises(ValueError, match=message):
        sample(tiny, prompts, [dma(drags)], steps=2)


def test_defaults_and_the_papers(tiny):
    tuned, theirs = DMA(drags=ONE).settings(), DMA.paper(drags=ONE).settings()
    assert (tuned["weight"], tuned["semantic_weight"], tuned["field"]) == (90, 0.1, "rigid")
    assert tuned["strength"] == {"rule": "polyak", "scale": 1.0, "clip": None, "group": ""}
    assert tuned["recurrence"] == {"times": 5, "window": {"start": 0.0, "stop": 0.3}, "noise": True}
    assert theirs["semantic_weight"] == 1 and theirs["strength"]["rule"] == "raw" and theirs["recurrence"]["times"] == 1
    with pytest.raises(ValueError, match=r"DMA\(field='stiff'\): use one of rigid, decaying"):
        DMA(drags=ONE, field="stiff")
    with pytest.raises(ValueError, match="this backbone names no flow: give the method one"):
        sample(tiny, ONE.prompt, [DMA(drags=ONE)], steps=2)


def test_the_field_is_a_setting(ready):
    _, stiff, _ = ready([ONE])
    _, soft, _ = ready([ONE], field="decaying", spread=0.05)
    assert torch.equal(stiff.mask, soft.mask)
    assert torch.equal(soft.wanted[0], decaying(block(*A), torch.tensor([[15.0, 27]]), torch.tensor([[10.0, 6]]), 0.05))


def test_one_object_serves_several_runs_and_sources_of_another_precision(make_pipeline):
    half = wrap(make_pipeline().to(torch.bfloat16))
    method = dma(weight=1.0)
    first = sample(half, PROMPTS, [CFG(3), method], steps=2)
    assert torch.equal(sample(half, PROMPTS, [CFG(3), method], steps=2).images, first.images)
    assert first.images.isfinite().all() and not first.warnings


def test_a_trajectory_of_another_run_is_refused(tiny, trajectory):
    with pytest.raises(ValueError, match="the trajectory has 4 steps, the run 6: invert with steps=6"):
        sample(tiny, PROMPTS, [dma(trajectory=trajectory)], steps=6)
    with pytest.raises(ValueError, match="the trajectory has 3 images for 1 prompts"):
        sample(tiny, ONE.prompt, [dma([ONE], trajectory=trajectory)], steps=STEPS)
    with pytest.raises(ValueError, match=r"latents are \(4, 16, 16\), the run's \(4, 16, 32\)"):
        sample(tiny.at(64, 128), PROMPTS, [Inverted(trajectory=trajectory)], steps=STEPS)


# --- errors on purpose -----------------------------------------------------------------------------------------------


def test_disturbed_clicks_grow_shrink_and_shift():
    image, point = ONE.image()[None], torch.tensor([[[15.0, 27.0]]])
    for grow in (0, 2, -3):
        mask = DisturbedClicks(Blocks(), grow)(image, point) > 0
        assert torch.equal(mask[0], block(8 - grow, 20 - grow, 24 + grow, 36 + grow))
    mask = DisturbedClicks(Blocks(), shift=(4, -5))(image, point) > 0
    assert torch.equal(mask[0], block(12, 15, 28, 31))


def test_disturbed_flow_is_wrong_by_as_much_as_asked():
    source = ONE.image()[None].expand(2, -1, -1, -1)
    wrong = DisturbedFlow(Centroids(), 3.0)
    error = wrong(source, source)
    assert error.square().sum(1).mean().sqrt().item() == pytest.approx(3)
    assert torch.equal(error, wrong(source, source)) and torch.equal(error[0], error[1])
