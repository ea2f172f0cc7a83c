"""DMA: the reference flow and the losses on values known on paper, gradients by finite differences, and the method."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from helpers.backbones import Backbone
from helpers.conditions import Drag, Move, encode_image, encode_mask
from helpers.guidance import CFG, Window
from helpers.guidance.dma import (
    DMA,
    _shown,
    appearance,
    decaying,
    displacement,
    inside,
    pixels,
    rigid,
    semantic,
    splat,
    warp,
)
from helpers.guidance.strength import rms
from helpers.inversion import Inverted, Recorder, invert
from helpers.perception.disturbed import DisturbedClicks, DisturbedFlow
from helpers.sampling import sample
from helpers.trace import Trace

STEPS = 4


def block(x0, y0, x1, y1, side=64):
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def constant(dx, dy, batch=1, side=64):
    return torch.tensor([dx, dy], dtype=torch.float32)[None, :, None, None].expand(batch, 2, side, side)


# --- stand-ins for the trained nets, exact on dark blocks before a light background -----------------------------------


class Centroids:
    """An optical flow that is the way between the centroids of what is dark, the same at every pixel."""

    def __call__(self, source, target):
        def centre(images):
            dark = torch.sigmoid(20 * (0.5 - images.mean(1)))
            place = (dark[:, None] * pixels(*images.shape[-2:]).to(images)).sum((2, 3))
            return place / dark.sum((1, 2))[:, None].clamp(min=1)

        return (centre(target) - centre(source))[:, :, None, None].expand(-1, -1, *source.shape[-2:])


class Blocks:
    """A click segmenter: the connected dark pixels under the clicks."""

    calls = 0

    def __call__(self, images, points):
        self.calls += 1
        logits = torch.full((len(images), *images.shape[-2:]), -5.0)
        for k, (image, clicked) in enumerate(zip(images, points, strict=True)):
            parts, _ = ndimage.label(image.mean(0).numpy() < 0.5)
            for x, y in clicked.round().long().tolist():
                if parts[y, x]:
                    logits[k][torch.from_numpy(parts == parts[y, x])] = 5.0
        return logits


def patches(images):
    """Dense features: colours of 4x4 pixels and their squares, unit norm."""
    small = F.avg_pool2d(images, 4)
    return F.normalize(torch.cat([small, small.square(), torch.ones_like(small[:, :1])], 1), dim=1)


def picture(*boxes, size=64):
    image = np.full((size, size, 3), 240, np.uint8)
    for n, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1] = (40 + 20 * n, 30, 60)
    return image


def fraction(x, y):
    return (x + 0.5) / 64, (y + 0.5) / 64


def drag(boxes, moves, prompt="a red ball", **fields):
    moves = [Move(handle=fraction(*h), target=fraction(*q)) for h, q in moves]
    return Drag(**{"prompt": prompt, "source": encode_image(picture(*boxes)), "moves": moves} | fields)


A, B = (8, 20, 24, 36), (40, 40, 52, 56)
ONE = drag([A, B], [((15, 27), (25, 33))])
TWO_HANDLES = drag([A, B], [((10, 27), (20, 37)), ((21, 27), (31, 37))], prompt="a blue car")
TWO_OBJECTS = drag([A, B], [((15, 27), (15, 15)), ((45, 45), (40, 50))], prompt="a red car and a blue fish")
DRAGS = [ONE, TWO_HANDLES, TWO_OBJECTS]
PROMPTS = [d.prompt for d in DRAGS]


def dma(drags=DRAGS, **options):
    return DMA(Centroids(), Blocks(), patches, drags, **options)


@pytest.fixture(scope="module")
def trajectory(tiny):
    return invert(tiny, torch.stack([d.image() for d in DRAGS]), PROMPTS, STEPS, passes=2)


@pytest.fixture
def ready(make_context, trajectory, tiny):
    """A DMA after its setup, for a run of 10 steps."""

    def prepare(drags, **options):
        method = dma(drags, **options)
        method.trajectory = invert(tiny, torch.stack([d.image() for d in drags]), [d.prompt for d in drags], 10, 1)
        ctx = make_context(tiny, [d.prompt for d in drags], [method])
        return method, ctx

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
    method, ctx = ready([ONE])
    dx, dy = 10, 6
    values = []
    for share in (0, 0.5, 1):
        x, y = round(share * dx), round(share * dy)
        edited = drag([(A[0] + x, A[1] + y, A[2] + x, A[3] + y), B], [((15, 27), (25, 33))])
        ctx.image = edited.image()[None]
        _, info = method.energy(ctx)
        values.append(info[term].item())
    # the stand-in's flow is that of both blocks' common centroid: it never quite says 10 and 6
    assert values[0] > values[1] > values[2] and (term == "displacement" or values[2] == pytest.approx(0, abs=1e-4))


# --- masks -----------------------------------------------------------------------------------------------------------


def test_handles_of_one_object_share_a_mask_and_objects_have_their_own(ready):
    method, _ = ready(DRAGS)
    one, two, both = method._mask
    assert torch.equal(one, block(*A)) and torch.equal(two, block(*A)) and torch.equal(both, block(*A) | block(*B))
    flow = method._reference_flow[2]
    assert (flow[:, block(*A)] == torch.tensor([[0.0], [-12.0]])).all()
    assert (flow[:, block(*B)] == torch.tensor([[-5.0], [5.0]])).all()
    assert not flow[:, ~both].any()


def test_the_drags_own_mask_replaces_the_segmenters(ready):
    own = block(10, 22, 20, 32)
    given = drag([A, B], [((15, 27), (25, 33))], mask=encode_mask(own.numpy()))
    method, _ = ready([given])
    assert torch.equal(method._mask[0], own) and method.clicks.calls == 0


def test_partly_outside_only_what_stays_inside_counts(ready):
    method, ctx = ready([drag([A, B], [((20, 27), (8, 27))])])  # 12 to the left: x from 8 - 12
    assert torch.equal(method._seen[0] > 0, block(12, 20, 24, 36))
    loss, info = method.energy(ctx)
    assert loss.isfinite() and not info["error"][0, :, :12].any()


def test_the_background_region_holds_no_pixel_of_the_object_before_or_after(ready):
    method, _ = ready([ONE], margin=0)
    kept = ~F.interpolate(method._region.float(), (64, 64))[0, 0].bool()
    assert not (kept & (block(*A) | block(18, 26, 34, 42))).any() and kept[block(*B)].all()
    wide, _ = ready([ONE], margin=1)
    assert wide._region.sum() > method._region.sum()


# --- the method ------------------------------------------------------------------------------------------------------


def test_zero_weight_is_the_inverted_source_bit_for_bit(tiny, trajectory):
    plain = sample(tiny, PROMPTS, [CFG(3), Inverted(trajectory)], steps=STEPS)
    idle = sample(tiny, PROMPTS, [CFG(3), dma(trajectory=trajectory, weight=0.0, blend=Window(0, 0))], steps=STEPS)
    assert idle.cost.backwards == 3 * 3 and torch.equal(idle.images, plain.images)


def test_the_background_stays(tiny, trajectory):
    method = dma(trajectory=trajectory, weight=1e4)
    run = sample(tiny, PROMPTS, [CFG(3), method], steps=STEPS)
    kept = ~method._region.expand_as(run.latents)
    assert torch.equal(run.latents[kept], trajectory.latents[-1][kept])
    assert (run.latents - trajectory.latents[-1])[~kept].abs().max() > 0.1


def test_without_a_trajectory_the_sources_are_inverted_and_counted(tiny):
    method = dma([ONE], weight=0.0)
    run = sample(tiny, ONE.prompt, [method], steps=2)
    assert method.trajectory.psnr.shape == (1,) and method.trajectory.steps == 2
    assert run.cost.forwards == 2 + 2 * (5 + 1)


def test_a_recorded_trajectory_draws_the_same_picture_again(tiny):
    recorder = Recorder()
    drawn = sample(tiny, PROMPTS[:2], [CFG(5), recorder], steps=STEPS, batch=1)
    source = encode_image((drawn.images[0] * 255).round().byte().permute(1, 2, 0).numpy())
    moves = [Move(handle=(0.5, 0.5), target=(0.6, 0.5))]
    mask = encode_mask(block(20, 20, 40, 40).numpy())
    again = [Drag(prompt=p, source=source, moves=moves, mask=mask) for p in PROMPTS[:2]]
    run = sample(tiny, PROMPTS[:2], [CFG(5), dma(again, trajectory=recorder.trajectory, weight=0.0)], STEPS, [8, 9], 1)
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
    double = Backbone(copy.deepcopy(make_pipeline()).to(torch.float64))
    trajectory = invert(double, torch.stack([d.image() for d in DRAGS]), PROMPTS, 10, passes=1)
    methods = [CFG(3), dma(trajectory=trajectory)]
    ctx = make_context(double, PROMPTS, methods)
    loss, _ = methods[1].energy(ctx)
    (grad,) = torch.autograd.grad(loss.sum(), ctx.x_t)
    step = 0.02 * grad / rms(grad)

    @torch.no_grad()
    def at(change):
        return methods[1].energy(make_context(double, PROMPTS, methods, x_t=ctx.x_t + change))[0]

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
        (DRAGS[:2], PROMPTS, "DMA has 2 drags for 3 prompts: give one per image"),
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
    ],
)
def test_refusals(tiny, drags, prompts, message):
    with pytest.raises(ValueError, match=message):
        sample(tiny, prompts, [dma(drags)], steps=2)


def test_a_trajectory_of_another_run_is_refused(tiny, trajectory):
    with pytest.raises(ValueError, match="the trajectory has 4 steps, the run 6: invert with steps=6"):
        sample(tiny, PROMPTS, [dma(trajectory=trajectory)], steps=6)
    with pytest.raises(ValueError, match="the trajectory has 3 images for 1 prompts"):
        sample(tiny, ONE.prompt, [dma([ONE], trajectory=trajectory)], steps=STEPS)


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
    method = DMA(wrong, DisturbedClicks(Blocks(), 1), patches, [ONE])
    assert method.settings()["weight"] == 90
