"""Methods that work through attention: layouts read right, formulas at known values, idle when off, as in diffusers."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionAttendAndExcitePipeline, StableDiffusionPanoramaPipeline
from diffusers.pipelines.deprecated.stable_diffusion_attend_and_excite import (
    pipeline_stable_diffusion_attend_and_excite as theirs,
)

from helpers.attention import Layers, Recorded, Site, attention
from helpers.backbones import Backbone, load_backbone
from helpers.conditions import Layout, Prompt, Region
from helpers.guidance import CFG, Ctx, Exploding, Job, Raw, Window
from helpers.guidance.attend_excite import KERNEL, AttendExcite, neglect, rate, subject_maps
from helpers.guidance.boxdiff import BoxDiff, boxed, corners, crisp, largest
from helpers.guidance.composable import Composable
from helpers.guidance.densediffusion import DenseDiffusion, modulate
from helpers.guidance.descent import descend
from helpers.guidance.directed import Directed, bump
from helpers.guidance.ilgd import ILGD, LOSSES, combined, difference
from helpers.guidance.layout_guidance import LayoutGuidance, outside
from helpers.guidance.multidiffusion import MultiDiffusion
from helpers.guidance.regions import Regions, of_regions, of_tokens
from helpers.guidance.strength import rms
from helpers.guidance.watch import Watch
from helpers.sampling import initial_noise, predict, sample
from helpers.trace import Trace


def layout(prompt, **boxes):
    """Keywords are phrases with _ for a blank."""
    regions = [Region(phrase=phrase.replace("_", " "), box=box) for phrase, box in boxes.items()]
    return Layout(prompt=prompt, regions=regions)


LAYOUTS = [
    layout(
        "a red car left of a blue fish on the grass", red_car=(0, 0.25, 0.5, 0.75), blue_fish=(0.625, 0.25, 1, 0.75)
    ),
    layout("a blue ball and a red car", blue_ball=(0.5, 0, 1, 0.5)),
]
PROMPTS = [one.prompt for one in LAYOUTS]
SITE = Site("up", "cross", "up", 1, 1)


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone("mini-sd", device="cpu")


def start(backbone, methods=(), layouts=LAYOUTS, index=None, i=3, steps=10, t=600, x_t=None) -> Ctx:
    """A step of the loop before its predictions."""
    scheduler = backbone.scheduler()
    scheduler.set_timesteps(steps)
    job = Job(backbone, [Prompt(text=one.prompt) for one in layouts], list(range(len(layouts))), scheduler)
    job.text = job.encode([one.prompt for one in layouts])
    for method in methods:
        method.setup(job)
    index = job.seeds if index is None else index
    if x_t is None:
        x_t = initial_noise(backbone, [torch.Generator().manual_seed(k) for k in index])
    return Ctx(job, list(index), i, torch.tensor(t), x_t)


def evaluated(backbone, method, **options) -> Ctx:
    """The same after its predictions, with the attention that `method` reads; ctx.x_t is a leaf."""
    ctx = start(backbone, [method], **options)
    ctx.x_t.requires_grad_(torch.is_grad_enabled())
    read, size = [method.layers or Layers()], ctx.x_t.shape[-2:]
    with attention(backbone.pipe.unet, size, len(ctx.index), read, method.edits(ctx)) as ctx.attention:
        predict(ctx, [method])
    return ctx


def randoms(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(maps, boxes, phrases=None):
    """Attention (B, heads, h, w, T) of one layer, and regions (B, N, h, w), the n-th named by token n + 1."""
    size = maps.shape[2:4]
    tokens = torch.zeros(*boxes.shape[:2], maps.size(-1), dtype=torch.bool)
    for n in range(boxes.size(1)):
        tokens[:, n, n + 1] = True
    tokens = tokens if phrases is None else phrases
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    return Recorded(size, {SITE: maps.flatten(2, 3)}), Regions([], tokens, tokens, boxes, valid, size)


def corner_box(side=4, dtype=torch.float32):
    """(1, 1, side, side): the upper left quarter."""
    box = torch.zeros(1, 1, side, side, dtype=dtype)
    box[..., : side // 2, : side // 2] = 1
    return box


# --- what is read of layouts -----------------------------------------------------------------------------------------


def regions_of(backbone, *layouts):
    return Regions.of(start(backbone, layouts=layouts).job, layouts, "a method")


def words(backbone, prompt, tokens):
    """What the chosen tokens of a prompt say."""
    return backbone.pipe.tokenizer.decode(
        torch.tensor(backbone.pipe.tokenizer(prompt)["input_ids"])[tokens.nonzero().flatten()]
    )


def test_phrases_and_nouns_are_all_their_tokens_and_no_others(tiny):
    box = (0, 0, 1, 1)
    one = layout("a red car and a green tree, on the grass", red_car=box, green_tree=box, the_grass=box)
    regions = regions_of(tiny, one)
    for r, (phrase, noun) in enumerate([("red car", "car"), ("green tree", "tree"), ("the grass", "grass")]):
        assert words(tiny, one.prompt, regions.phrases[0, r]) == phrase
        assert words(tiny, one.prompt, regions.nouns[0, r]) == noun
    assert regions.phrases[0, 0].nonzero().flatten().tolist() == [2, 3] and regions.nouns[0, 0].nonzero().item() == 3
    assert regions.nouns[0, 1].sum() > 1, "a word of several tokens"


def test_repeated_phrases_are_told_apart_by_their_start(tiny):
    box = {"box": (0, 0, 1, 1)}
    twice = Layout(
        prompt="a ball and a red ball",
        regions=[Region(phrase="ball", start=2, **box), Region(phrase="ball", start=17, **box)],
    )
    assert [own.nonzero().item() for own in regions_of(tiny, twice).nouns[0]] == [2, 6]
    inner = layout("a ball and a red ball", ball_and_a_red_ball=(0, 0, 1, 1))
    assert regions_of(tiny, inner).nouns[0, 0].nonzero().item() == 6, "the noun is the last word, where it stands last"


def test_places_are_shares_and_padding_is_empty(tiny):
    wide = tiny.at(32, 64)
    regions = regions_of(wide, *LAYOUTS)
    assert regions.latents == (8, 16) and regions.valid.tolist() == [[True, True], [True, False]]
    padded = (regions.masks, regions.phrases, regions.nouns)
    assert not any(kind[1, 1].any() for kind in padded) and all(kind[1, 0].any() for kind in padded)
    car = torch.zeros(4, 8)
    car[1:3, :4] = 1
    assert torch.equal(regions.pixels(Site("x", "cross", "up", 2, 0))[0, 0].view(4, 8), car)
    fish = regions.places(2, 4)[0, 1]
    torch.testing.assert_close(fish, torch.tensor([[0, 0, 0.25, 0.5]] * 2))
    part = regions.part([1])
    assert part.layouts == [LAYOUTS[1]] and torch.equal(part.masks, regions.masks[1:]) and len(part.valid) == 1


def test_values_of_regions_and_of_tokens():
    tokens = torch.tensor([[[False, True, True, False], [False, False, True, False]]])
    per_region = torch.tensor([[[0.2, 0.9], [0.5, 0.1]]])  # two regions, two pixels
    expected = torch.tensor([[[[0, 0.2, 0.5, 0], [0, 0.9, 0.9, 0]]]])
    torch.testing.assert_close(of_tokens(per_region, tokens), expected)
    probs = randoms(1, 3, 2, 4)
    own = of_regions(probs, tokens)
    torch.testing.assert_close(own[:, :, 0], probs[..., 1:3].mean(-1))
    torch.testing.assert_close(own[:, :, 1], probs[..., 2])
    assert of_regions(probs, torch.zeros(1, 2, 4, dtype=torch.bool)).eq(0).all(), "padding has no tokens"


TAKE_LAYOUTS = {
    "ilgd": ILGD,
    "attendexcite": AttendExcite,
    "boxdiff": BoxDiff,
    "layoutguidance": LayoutGuidance,
    "densediffusion": DenseDiffusion,
    "multidiffusion": lambda layouts: MultiDiffusion(layouts, [["a"] * (len(one.regions) + 1) for one in layouts]),
    "directed": Directed,
    "attention": Watch,
}


@pytest.mark.parametrize("name", TAKE_LAYOUTS)
def test_layouts_must_fit_the_prompts(tiny, name):
    with pytest.raises(ValueError, match="has 1 layouts for 2 prompts: give one per image"):
        start(tiny, [TAKE_LAYOUTS[name](LAYOUTS[:1])])
    with pytest.raises(
        ValueError, match="image 0 is drawn from .* but its layout is for .* in the order of the prompts"
    ):
        start(tiny, [TAKE_LAYOUTS[name](LAYOUTS[::-1])])


@pytest.mark.parametrize("name", TAKE_LAYOUTS)
def test_settings_are_json_under_the_methods_name(name):
    method = TAKE_LAYOUTS[name](LAYOUTS)
    assert method.name == name and json.loads(json.dumps(method.settings())) is not None


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "idle",
    [
        ILGD(LAYOUTS, injection=0.0, window=Window(), strength=Raw(0)),
        AttendExcite(LAYOUTS, scale=0.0, most=1),
        BoxDiff(LAYOUTS, scale=0.0),
        LayoutGuidance(LAYOUTS, scale=0.0, most=2, above=0.0),
    ],
    ids=lambda method: method.name,
)
def test_zero_strength_equals_plain_sampling_with_hooks_running(mini, idle):
    run = sample(mini, PROMPTS, [CFG(5), idle], steps=2)
    plain = sample(mini, PROMPTS, [CFG(5)], steps=2)
    torch.testing.assert_close(run.images, plain.images, atol=1e-4, rtol=0)
    assert run.cost.backwards >= 2 and run.curves[idle.name][:, 0].isfinite().all()


def test_without_a_loss_ilgd_pays_for_no_gradient(mini):
    run = sample(mini, PROMPTS, [CFG(5), ILGD(LAYOUTS, injection=0.0, weight=0.0)], steps=2)
    torch.testing.assert_close(run.images, sample(mini, PROMPTS, [CFG(5)], steps=2).images, atol=1e-4, rtol=0)
    assert run.cost.backwards == 0 and "ilgd" not in run.curves


@pytest.mark.parametrize(
    "method",
    [
        ILGD(LAYOUTS, injection_window=Window(), window=Window()),
        AttendExcite(LAYOUTS, scale=5.0, most=2),
        BoxDiff(LAYOUTS, scale=5.0),
        LayoutGuidance(LAYOUTS, most=2),
        DenseDiffusion(LAYOUTS),
        MultiDiffusion(LAYOUTS, [["a car", "a fish", "grass"], ["a ball", "grass"]]),
        Composable([["a car", "a fish", "grass"], ["a ball"]]),
        Directed(LAYOUTS),
    ],
    ids=lambda method: method.name,
)
def test_images_do_not_depend_on_the_batch_and_are_changed(mini, method):
    whole, apart = (sample(mini, PROMPTS, [CFG(5), method], steps=2, batch=size) for size in (2, 1))
    torch.testing.assert_close(apart.images, whole.images, atol=1e-3, rtol=0)
    assert (apart.cost.forwards, apart.cost.backwards) == (whole.cost.forwards, whole.cost.backwards)
    plain = sample(mini, PROMPTS, [CFG(5)], steps=2).images
    assert ((whole.images - plain).abs().amax((1, 2, 3)) > 0.01).all()


@pytest.mark.parametrize("method", [ILGD(LAYOUTS, window=Window()), LayoutGuidance(LAYOUTS, window=Window(), most=2)])
def test_gradient_checkpointing_gives_the_same_images(make_pipeline, method):
    images = []
    for checkpointing in (False, True):
        backbone = Backbone(make_pipeline())
        if checkpointing:
            backbone.pipe.unet.enable_gradient_checkpointing()
        images.append(sample(backbone, PROMPTS, [CFG(5), method], steps=3).images)
    torch.testing.assert_close(*images, atol=1e-4, rtol=0)


# --- iLGD ------------------------------------------------------------------------------------------------------------


def test_maps_are_combined_with_weights_of_their_means():
    """Two layers, one of them twice as fine, two heads each: by hand."""
    coarse, fine = randoms(1, 2, 4, 5), randoms(1, 2, 16, 5, seed=1)
    seen = Recorded((4, 4), {Site("a", "cross", "up", 2, 0): coarse, Site("b", "cross", "up", 1, 1): fine})
    tokens = torch.zeros(1, 1, 5, dtype=torch.bool)
    tokens[..., 2:4] = True  # a word of two tokens
    maps = [coarse[..., 2:4].mean(-1).view(2, 2, 2), F.avg_pool2d(fine[..., 2:4].mean(-1).view(2, 4, 4), 2)]
    flat = torch.cat(maps)
    weights = flat.mean((1, 2)).exp()
    expected = (weights[:, None, None] * flat).sum(0) / weights.sum()
    torch.testing.assert_close(combined(seen, tokens, Layers(), (2, 2))[0, 0], expected)


def test_loss_is_bounded_and_the_paper_identity_holds(mini):
    with torch.no_grad():
        ilgd = ILGD(LAYOUTS, injection=0.0)
        ctx = evaluated(mini, ilgd)
        loss, info = ilgd.energy(ctx)
    regions = regions_of(mini, *LAYOUTS)
    maps = combined(ctx.attention, regions.nouns, Layers(), (8, 8))
    boxes = regions.places(8, 8)
    found = (difference(maps, boxes) * regions.valid).sum(1)
    expected = (maps.sum((2, 3)) - 2 * (maps * boxes).sum((2, 3))) * regions.valid
    torch.testing.assert_close(found, expected.sum(1))
    torch.testing.assert_close(loss, found)
    assert (loss.abs() <= 64 * regions.valid.sum(1)).all()
    share = (maps * boxes).sum((2, 3)) / maps.sum((2, 3)) * regions.valid
    torch.testing.assert_close(info["inside"], torch.where(regions.valid, share, 0))
    torch.testing.assert_close(info["maps"].amax((2, 3))[regions.valid], torch.ones(3))
    assert info["maps"].shape == (2, 2, 8, 8)


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
    together, alone = (ILGD(layouts, loss=name, window=Window()) for layouts in (LAYOUTS, LAYOUTS[1:]))
    ctx = evaluated(tiny, together)
    own = evaluated(tiny, alone, layouts=LAYOUTS[1:], x_t=ctx.x_t[1:])
    torch.testing.assert_close(alone.energy(own)[0][0], together.energy(ctx)[0][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_one_small_step_draws_attention_into_the_boxes(mini, name):
    ilgd = ILGD(LAYOUTS, injection=0.0, loss=name, window=Window())
    ctx = evaluated(mini, ilgd)
    loss, info = ilgd.energy(ctx)
    (grad,) = torch.autograd.grad(loss.sum(), ctx.x_t)
    with torch.no_grad():
        x_t = ctx.x_t - 1e-3 * grad / rms(grad)
        less, more = ilgd.energy(evaluated(mini, ilgd, x_t=x_t))
    assert (less < loss).all()
    if name != "peak":  # which minds the two maxima alone
        assert (more["inside"].sum(1) > info["inside"].sum(1)).all()


def test_injection_at_hand_made_scores(tiny):
    ilgd = ILGD(LAYOUTS, injection=0.75)
    ctx = start(tiny, [ilgd], i=1)
    (edit,) = ilgd.edits(ctx)
    site = Site("x", "cross", "up", 2, 0)
    scores = randoms(2, 4, 64, 77, dtype=torch.float32) - 0.3
    added = edit.scores(scores, site) - scores
    nu = 0.75 * np.log1p(((1 - tiny.alpha_bar(600)) / tiny.alpha_bar(600)).sqrt().item())
    expected = torch.zeros(2, 4, 8, 8, 77)
    expected[0, :, 2:6, :4, 3] = nu * scores[0, ..., 3].max()  # car: x in [0, .5], y in [.25, .75]
    expected[0, :, 2:6, 5:, 8] = nu * scores[0, ..., 8].max()  # fish: x in [.625, 1]
    expected[1, :, :4, 4:, 3] = nu * scores[1, ..., 3].max()  # ball
    torch.testing.assert_close(added, expected.flatten(2, 3), atol=1e-6, rtol=1e-4)


def test_injection_into_the_whole_picture_adds_a_constant_to_one_column(tiny):
    ilgd = ILGD([layout("a blue ball", blue_ball=(0, 0, 1, 1))])
    (edit,) = ilgd.edits(start(tiny, [ilgd], ilgd.layouts, i=1))
    scores = randoms(1, 4, 64, 77, dtype=torch.float32)
    changed = edit.scores(scores, Site("x", "cross", "up", 2, 0))
    added = changed - scores
    assert added[..., 3].std() < 1e-6 and added[..., 3].mean() > 0.5 and added.sum(-1).allclose(added[..., 3])
    assert (changed.softmax(-1)[..., 3] > scores.softmax(-1)[..., 3]).all()


def test_steps_of_the_paper(tiny):
    class Spied(ILGD):
        def edits(self, ctx):
            found = super().edits(ctx)
            injected.extend([ctx.i] * len(found))
            return found

    injected = []
    run = sample(tiny, PROMPTS[1], [CFG(5), Spied(LAYOUTS[1:])], steps=50)
    assert injected == list(range(1, 11))
    assert run.curves["spied"][0].isfinite().nonzero().flatten().tolist() == list(range(1, 25))
    assert run.cost.backwards == 24


def test_injected_but_outside_the_loss_window_the_loss_is_zero(tiny):
    late = ILGD(LAYOUTS, injection_window=Window(), window=Window(0.5, 1.0))
    run = sample(tiny, PROMPTS, [CFG(5), late], steps=4)
    assert (run.curves["ilgd"][:, :2] == 0).all() and (run.curves["ilgd"][:, 2:] != 0).all()
    assert (run.curves["update_rms"][:, :2] == 0).all()


def test_strength_readings_differ_by_the_square_root_of_alpha_bar(tiny):
    sizes = {}
    for rule in (Raw(), Exploding()):
        run = sample(tiny, PROMPTS, [CFG(5), ILGD(LAYOUTS, window=Window(), strength=rule)], steps=3)
        sizes[type(rule)] = run.curves["update_rms"][:, 0]
        own = run.curves["grad_rms"][:, 0] * 0.32
    scheduler = tiny.scheduler()
    scheduler.set_timesteps(3)
    first = tiny.alpha_bar(scheduler.timesteps[0])
    torch.testing.assert_close(sizes[Exploding] / sizes[Raw], torch.full((2,), first.item() ** -0.5), rtol=1e-4, atol=0)
    assert (first**-0.5 > 10) and (own > 0).all()


def test_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="unknown loss 'sum': use one of difference, mean_difference"):
        ILGD(LAYOUTS, loss="sum")


# --- descent ---------------------------------------------------------------------------------------------------------


def descended(backbone, ctx, above=0.0, rate=1.0, most=1):
    """With the loss: how little is looked at token 3 anywhere. Also which images it was asked for."""
    asked = []

    def loss(seen, index):
        asked.append(index)
        return torch.stack([1 - maps[..., 3].mean((1, 2)) for maps in seen.of(Layers()).values()]).mean(0)

    return *descend(ctx, "looks", Layers(), loss, rate, most, above), asked


def test_an_image_that_fulfils_its_goal_is_not_moved(tiny):
    ctx = start(tiny)
    _, first, _ = descended(tiny, ctx, above=2.0)
    assert first[0] != first[1]
    better, worse = first.argmin().item(), first.argmax().item()
    ctx = start(tiny)
    moved, again, asked = descended(tiny, ctx, above=first.mean().item(), rate=1e-3, most=3)
    assert torch.equal(moved[better], ctx.x_t[better]) and not torch.equal(moved[worse], ctx.x_t[worse])
    assert asked == [[0, 1], [worse], [worse]] and torch.equal(again, first)
    assert (ctx.cost.forwards, ctx.cost.backwards) == (4, 4)
    none, _, asked = descended(tiny, start(tiny), above=2.0, most=5)
    assert torch.equal(none, ctx.x_t) and asked == [[0, 1]]


def test_descent_is_along_the_gradient_and_lowers_the_loss(tiny):
    ctx = start(tiny)
    moved, first, _ = descended(tiny, ctx, rate=30.0)
    _, second, _ = descended(tiny, start(tiny, x_t=moved))
    assert (second < first).all()
    half, _, _ = descended(tiny, start(tiny), rate=torch.tensor(15.0))
    torch.testing.assert_close(moved - ctx.x_t, 2 * (half - ctx.x_t), rtol=1e-3, atol=1e-6)
    twice, _, _ = descended(tiny, start(tiny), rate=30.0, most=2)
    torch.testing.assert_close(twice, descended(tiny, start(tiny, x_t=moved), rate=30.0)[0])


class Broken(LayoutGuidance):
    """Whose loss of the run's second image is not a number."""

    def before(self, ctx):
        def loss(seen, index):
            found = outside(seen, self._regions.part(index), self.looks_at)
            return found * torch.where(torch.tensor(index) == 1, torch.nan, 1.0)

        return descend(ctx, self.name, self.looks_at, loss, 30.0)[0]


def test_a_descent_along_no_number_is_skipped_and_named(mini):
    args = {"steps": 4, "seeds": [5, 6]}
    with pytest.warns(
        UserWarning, match=r"image 1 \(seed 6\), step 0 of 4: the gradient of broken \(loss nan\) is not"
    ):
        run = sample(mini, PROMPTS, [CFG(), Broken(LAYOUTS, window=Window(0, 0.25))], **args)
    plain = sample(mini, PROMPTS, [CFG()], **args)
    assert run.warnings == [
        "image 1 (seed 6), step 0 of 4: the gradient of broken (loss nan) is not finite; its update was skipped"
    ]
    assert not torch.equal(run.images[0], plain.images[0])
    torch.testing.assert_close(run.images[1], plain.images[1], atol=1e-4, rtol=0)
    with pytest.raises(FloatingPointError, match=r"image 1 \(seed 6\), step 0 of 4.*: lower the weight"):
        sample(mini, PROMPTS, [CFG(), Broken(LAYOUTS)], strict=True, **args)


@pytest.mark.parametrize("method", [AttendExcite(LAYOUTS, refined={}), BoxDiff(LAYOUTS), LayoutGuidance(LAYOUTS)])
def test_a_descent_leaves_the_loops_own_evaluation_alone(mini, method):
    """Which then runs the fused kernels, without a graph."""
    recorded = []

    class Look(CFG):
        def combine(self, pred, ctx):
            recorded.append((dict(ctx.attention.maps), pred.requires_grad))
            return super().combine(pred, ctx)

    sample(mini, PROMPTS, [Look(), method], steps=2)
    assert recorded == [({}, False)] * 2


def test_images_descend_independently_of_their_batch(tiny):
    together = descended(tiny, start(tiny), rate=30.0, most=2)
    for k in (0, 1):
        alone = descended(tiny, start(tiny, index=[k]), rate=30.0, most=2)
        torch.testing.assert_close(alone[0][0], together[0][k], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone[1][0], together[1][k])
        assert alone[2] == [[k], [k]]


@pytest.mark.parametrize(
    "method",
    [AttendExcite(LAYOUTS, scale=1.0, refined={}), BoxDiff(LAYOUTS, scale=1.0), LayoutGuidance(LAYOUTS, 3.0, most=1)],
    ids=lambda method: method.name,
)
def test_before_a_step_the_loss_is_lowered(mini, method):
    ctx = start(mini, [method])
    moved = method.before(ctx)
    after = start(mini, [method], x_t=moved)
    method.before(after)
    assert (after.notes[method.name] < ctx.notes[method.name]).all()
    assert (ctx.cost.forwards, ctx.cost.backwards) == (2, 2)
    assert not moved.requires_grad and (moved - ctx.x_t).abs().max() > 1e-4


# --- Attend-and-Excite -----------------------------------------------------------------------------------------------


def with_parts(pipeline, backbone):
    names = ("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor")
    parts = {name: backbone.pipe.components[name] for name in names}
    pipe = pipeline(**parts, scheduler=backbone.scheduler(), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.filterwarnings("ignore:.*torch.meshgrid")
@pytest.mark.parametrize(
    ("images", "steps", "scale", "goals"), [([0, 1], 6, 20, {}), ([0], 2, 1, {0: 0.99})], ids=["plain", "refined"]
)
def test_attend_and_excite_equals_diffusers(mini, images, steps, scale, goals):
    """Also with refinement, to a goal out of reach; 20 moves as large as the paper's would amplify the rounding."""
    prompts, tokens = [PROMPTS[k] for k in images], [[[3, 8], [3]][k] for k in images]
    latents = initial_noise(mini, [torch.Generator().manual_seed(k) for k in images])
    pipe = with_parts(StableDiffusionAttendAndExcitePipeline, mini)
    options = {"max_iter_to_alter": steps // 2, "thresholds": goals, "attn_res": (8, 8), "scale_factor": scale}
    expected = pipe(prompts, tokens, latents=latents, num_inference_steps=steps, output_type="pt", **options).images
    excite = AttendExcite([LAYOUTS[k] for k in images], scale, refined=goals)
    run = sample(mini, prompts, [CFG(), excite], steps=steps)
    torch.testing.assert_close(run.images, expected, atol=1e-3, rtol=0)
    assert (run.images - sample(mini, prompts, [CFG()], steps=steps).images).abs().max() > 0.02
    assert run.cost.backwards == len(images) * (steps // 2 + 20 * len(goals))


@pytest.mark.filterwarnings("ignore:.*torch.meshgrid")
def test_kernel_and_maxima_equal_diffusers():
    kernel = torch.outer(KERNEL, KERNEL) / KERNEL.sum() ** 2
    torch.testing.assert_close(kernel, theirs.GaussianSmoothing().weight[0, 0])
    torch.testing.assert_close(KERNEL / KERNEL.sum(), torch.tensor([0.212, 0.576, 0.212]), atol=1e-3, rtol=0)
    seen, regions = by_hand((5 * randoms(1, 3, 6, 6, 9, dtype=torch.float32)).softmax(-1), torch.ones(1, 4, 6, 6))
    found = subject_maps(seen, regions.nouns, Layers()).amax((2, 3))[0]
    mean = seen.maps[SITE].mean(1).view(6, 6, 9)
    maxima = StableDiffusionAttendAndExcitePipeline._compute_max_attention_per_index(mean.clone(), [1, 2, 3, 4])
    torch.testing.assert_close(found, torch.stack(maxima))


def test_the_most_neglected_subject_counts_and_padding_does_not():
    maps = torch.zeros(2, 3, 4, 4)
    maps[0, :, 1, 1] = torch.tensor([0.9, 0.4, 0.7])
    maps[1, :, 2, 0] = torch.tensor([0.8, 0.0, 1.5])
    valid = torch.tensor([[True, True, True], [True, False, True]])
    torch.testing.assert_close(neglect(maps, valid), torch.tensor([0.6, 0.2]))
    random, all_valid = randoms(2, 3, 4, 4).requires_grad_(), torch.ones(2, 3, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda maps: neglect(maps, all_valid), random)


def test_rates_and_refined_steps_are_the_papers(tiny):
    method = AttendExcite(LAYOUTS)
    steps = [start(tiny, i=i, steps=50) for i in range(50)]
    np.testing.assert_allclose([rate(ctx, 20.0) for ctx in steps], 20 * np.linspace(1, 0.5, 50) ** 0.5, rtol=1e-6)
    assert {ctx.i: method.goal(ctx) for ctx in steps if method.goal(ctx)} == {0: 0.05, 10: 0.5, 20: 0.8}
    assert [ctx.i for ctx in steps if ctx in method.window] == list(range(25))


def test_refinement_goes_on_until_the_goal_is_reached(mini):
    method = AttendExcite(LAYOUTS, scale=2.0, refined={0.3: 0.25}, most=20)
    ctx = start(mini, [method])
    moved = method.before(ctx)
    assert (ctx.notes["attendexcite.refined"] > 0.75).any(), "there was something to do"
    assert (ctx.notes["attendexcite"] <= 0.75).all(), "the loss at the update of the step itself"
    assert 4 < ctx.cost.forwards < 2 * 21 and moved.isfinite().all()


def test_unet_of_one_resolution_is_refused(tiny):
    with pytest.raises(ValueError, match=r"has no attention .*ranks=\(1,\)"):
        sample(tiny, PROMPTS, [AttendExcite(LAYOUTS)], steps=2)


# --- BoxDiff ---------------------------------------------------------------------------------------------------------


def test_largest_is_the_mean_of_the_k_largest():
    values = torch.tensor([[1.0, 5, 3, 2], [1, 5, 3, 2], [4, 4, 0, 0]])
    torch.testing.assert_close(largest(values, torch.tensor([2.9, 0.3, 4.0])), torch.tensor([4.0, 5.0, 2.0]))


def test_crisp_boxes():
    shares = torch.tensor([[[1.0, 0.5, 0.49], [0, 0, 0]], [[0.3, 0.2, 0.3], [0, 0.1, 0]], [[0.0] * 3] * 2])
    expected = torch.tensor([[[1.0, 1, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0]], [[0.0] * 3] * 2])
    assert torch.equal(crisp(shares), expected)


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
    assert BoxDiff(LAYOUTS).refined == {} and BoxDiff(LAYOUTS, refined={0: 0.2}).refined == {0: 0.2}
    assert BoxDiff(LAYOUTS).settings()["refined"] == {} and BoxDiff(LAYOUTS).settings()["scale"] == 20


# --- layout guidance -------------------------------------------------------------------------------------------------


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


def test_layout_guidance_stops_at_the_energy_that_is_asked_for(mini):
    first = start(mini, [LayoutGuidance(LAYOUTS)])
    method = LayoutGuidance(LAYOUTS)
    method.setup(first.job)
    method.before(first)
    energies = first.notes["layoutguidance"]
    better, worse = energies.argmin().item(), energies.argmax().item()
    assert energies[better] < energies[worse]
    stopping = LayoutGuidance(LAYOUTS, scale=3.0, above=energies.mean().item(), most=3)
    ctx = start(mini, [stopping])
    moved = stopping.before(ctx)
    assert torch.equal(moved[better], ctx.x_t[better]) and not torch.equal(moved[worse], ctx.x_t[worse])
    assert 3 <= ctx.cost.forwards == ctx.cost.backwards <= 4


def test_layout_guidance_reads_mid_and_up_blocks_and_moves_by_the_variance(mini):
    ctx = start(mini)
    with attention(mini.pipe.unet, (16, 16), 2, [LayoutGuidance.looks_at]) as seen:
        mini.predict(ctx.x_t, ctx.t, ctx.job.text)
    assert sorted((site.place, site.rank) for site in seen.maps) == [("mid", 0), *[("up", 0)] * 2, *[("up", 1)] * 2]
    ways = {}
    for t in (900, 300):
        method = LayoutGuidance(LAYOUTS, scale=30.0, most=1)
        step = start(mini, [method], t=t)
        step.x_t.requires_grad_()
        with attention(mini.pipe.unet, (16, 16), 2, [method.looks_at]) as seen:
            mini.predict(step.x_t, step.t, step.job.text)
            (grad,) = torch.autograd.grad(outside(seen, regions_of(mini, *LAYOUTS), method.looks_at).sum(), step.x_t)
        ways[t] = method.before(step) - step.x_t.detach()
        expected = -30 * (1 - mini.alpha_bar(t)) * grad
        torch.testing.assert_close(ways[t], expected, rtol=1e-3, atol=1e-5)


# --- DenseDiffusion --------------------------------------------------------------------------------------------------


def test_modulation_at_known_values():
    scores = torch.tensor([0.0, 1.0, 4.0]).view(1, 1, 1, 3)
    together = torch.tensor([True, False, True]).view(1, 1, 1, 3)
    for strength, expected in {0.0: [0, 1, 4], 0.5: [2, 0.5, 4], 1.0: [4, 0, 4]}.items():
        found = modulate(scores, together, torch.full_like(scores, strength))
        torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("t", [999, 500])
def test_scores_move_by_the_fading_strength_and_the_free_area(tiny, t):
    dense = DenseDiffusion(LAYOUTS)
    ctx = start(tiny, [dense], t=t)
    cross, within = dense.edits(ctx)
    assert (cross.layers.kind, within.layers.kind) == ("cross", "self")
    fade, site = (t / 1000) ** 5, Site("x", "cross", "up", 2, 0)
    scores = randoms(2, 4, 64, 77, dtype=torch.float32)
    found = cross.scores(scores, site).unflatten(2, (8, 8))
    grid, top, low = scores.unflatten(2, (8, 8)), scores.amax(-1).view(2, 4, 8, 8), scores.amin(-1).view(2, 4, 8, 8)
    car = fade * (1 - 1 / 4)
    for token in (2, 3):  # red car
        own, moved = grid[0, ..., token], found[0, ..., token]
        torch.testing.assert_close(moved[:, 2:6, :4], (own + car * (top[0] - own))[:, 2:6, :4])
        torch.testing.assert_close(moved[:, :, 4:], (own - car * (own - low[0]))[:, :, 4:])
    others = [k for k in range(77) if k not in (2, 3, 7, 8)]
    assert torch.equal(found[0][..., others], grid[0][..., others]), "tokens of no region"
    scores = randoms(2, 4, 64, 64, dtype=torch.float32)
    found, top, low = within.scores(scores, site), scores.amax(-1, keepdim=True), scores.amin(-1, keepdim=True)
    ball = torch.zeros(8, 8, dtype=torch.bool)
    ball[:4, 4:] = True
    for segment in (ball.flatten(), ~ball.flatten()):
        strength = 0.3 * fade * (1 - segment.float().mean())
        rows = (scores + strength * torch.where(segment, top - scores, low - scores))[1]
        torch.testing.assert_close(found[1][:, segment], rows[:, segment])


def test_phrases_are_pasted_as_they_read_by_themselves(mini):
    dense = DenseDiffusion(LAYOUTS)
    job = start(mini, [dense]).job
    before = job.text["encoder_hidden_states"]
    after = dense.encode(job.text, job)["encoder_hidden_states"]
    alone = mini.encode_text(["red car", "blue fish", "blue ball"])["encoder_hidden_states"]
    for k, place, phrase in ((0, [2, 3], 0), (0, [7, 8], 1), (1, [2, 3], 2)):
        torch.testing.assert_close(after[k, place], alone[phrase, 1:3])
        assert (after[k, place] - before[k, place]).abs().max() > 0.01
    kept = torch.ones(2, 77, dtype=torch.bool)
    kept[0, [2, 3, 7, 8]] = kept[1, [2, 3]] = False
    assert torch.equal(after[kept], before[kept]) and job.text["encoder_hidden_states"] is before


def test_self_attention_of_the_segments_grows_in_a_run(mini):
    """Through the real layers: pixels of the car look more at the car."""
    site = Layers("self", places=("down",), ranks=(2,))
    shares = []
    for method in (DenseDiffusion(LAYOUTS, self_weight=0.0), DenseDiffusion(LAYOUTS)):
        ctx = start(mini, [method], t=999)
        with torch.no_grad(), attention(mini.pipe.unet, (16, 16), 2, [site], method.edits(ctx)) as seen:
            mini.predict(ctx.x_t, ctx.t, ctx.job.text)
        car = regions_of(mini, *LAYOUTS).places(16, 16)[0, 0].flatten() > 0.5
        (maps,) = seen.maps.values()
        shares.append(maps[0][:, car][..., car].sum(-1).mean())
    assert shares[1] > shares[0] + 0.01


# --- MultiDiffusion --------------------------------------------------------------------------------------------------


def test_one_region_everywhere_with_the_prompt_equals_cfg_and_panorama(mini):
    whole = [layout(prompt, **{phrase: (0, 0, 1, 1)}) for prompt, phrase in zip(PROMPTS, ("red_car", "blue_ball"))]
    texts = [[prompt, "the grass"] for prompt in PROMPTS]
    run = sample(mini, PROMPTS, [MultiDiffusion(whole, texts, 5, bootstrap=0)], steps=4)
    torch.testing.assert_close(run.images, sample(mini, PROMPTS, [CFG(5)], steps=4).images, atol=1e-4, rtol=0)
    pipe = with_parts(StableDiffusionPanoramaPipeline, mini)  # a picture of one view
    for k, prompt in enumerate(PROMPTS):
        latents = initial_noise(mini, [torch.Generator().manual_seed(k)])
        options = {"height": 64, "width": 64, "guidance_scale": 5, "num_inference_steps": 4, "output_type": "pt"}
        torch.testing.assert_close(run.images[k], pipe(prompt, latents=latents, **options).images[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("bootstrap", [0.0, 1.0])
@torch.no_grad()
def test_fused_predictions_are_fused_steps(backbone, bootstrap):
    """Affine in x_t and eps: fusing every region's x_{t-1} of DDIM is the same, where regions overlap too."""
    over = [layout(PROMPTS[0], red_car=(0, 0, 0.6, 0.7), blue_fish=(0.4, 0.3, 1, 0.8)), LAYOUTS[1]]
    multi = MultiDiffusion(over, [["a red car", "a blue fish", "grass"], ["a blue ball", "grass"]], 5, bootstrap)
    ctx = start(backbone, [multi], over)
    branches = {branch.name: branch for branch in multi.branches(ctx)}
    predict(ctx, [multi])
    scheduler = ctx.job.scheduler
    found = scheduler.step(ctx.pred, ctx.t, ctx.x_t).prev_sample
    masks = [over[0].masks(16, 16) >= 0.5, over[1].masks(16, 16).expand(2, -1, -1) >= 0.5]
    masks[1] = masks[1] & torch.tensor([True, False])[:, None, None]  # one region only
    masks = torch.stack([torch.cat([own, ~own.any(0, keepdim=True)]) for own in masks])[:, :, None].float()
    total = 0
    for n in range(3):
        view = ctx.x_t if branches[f"region {n}"].x_t is None else branches[f"region {n}"].x_t
        cond, uncond = ctx.preds[f"region {n}"], ctx.preds.get(f"no region {n}", ctx.preds["uncond"])
        total = total + masks[:, n] * scheduler.step(uncond + 5 * (cond - uncond), ctx.t, view).prev_sample
        assert torch.equal(view * masks[:, n], ctx.x_t * masks[:, n])
        assert torch.equal(view, ctx.x_t) == (bootstrap == 0 or n == 2), (
            "elsewhere something else, but not for the rest"
        )
    torch.testing.assert_close(found, total / masks.sum(1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_bootstrapping_shows_a_region_before_a_plain_colour_of_its_own(tiny):
    small, shown = [layout(PROMPTS[0], red_car=(0, 0, 0.5, 0.5), blue_fish=(0.5, 0, 1, 1)), LAYOUTS[1]], []

    def encode(pictures):
        shown.extend(pictures)
        return torch.full((len(pictures), *tiny.latent_shape), 7.0)

    backbone = copy.copy(tiny)
    backbone.encode = encode
    multi = MultiDiffusion(small, [["a", "b", "c"], ["a", "b"]])

    def view(**options):
        branches = multi.branches(start(backbone, [multi], small, **options))
        return next(branch.x_t for branch in branches if branch.name == "region 0")

    early, late = view(t=0)[0], view(t=999)[0]
    colours = torch.stack(shown[:4]).flatten(2)
    assert torch.equal(colours.amax(2), colours.amin(2)) and len(colours[..., 0].unique(dim=0)) == 4
    torch.testing.assert_close(early[:, 8:], torch.full_like(early[:, 8:], 7.0), atol=0.2, rtol=0)
    assert late[:, 8:].mean().abs() < 1 and abs(late[:, 8:].std() - 1) < 0.1
    torch.testing.assert_close(view(index=[1])[0], view()[1])
    assert not torch.equal(view(i=2)[..., 8:], view(i=3)[..., 8:]), "new noise at every step"
    assert view(i=4) is None, "over after 40 % of the steps"


@torch.no_grad()
def test_noise_before_a_plain_colour_is_none_of_the_initial_ones(tiny):
    """Seed 0, first step: outside its mask a region must not see the picture's own noise."""
    multi = MultiDiffusion(LAYOUTS, [["a", "b", "c"], ["a", "b"]])
    ctx = start(tiny, [multi], i=0, t=999)
    view = next(branch.x_t for branch in multi.branches(ctx) if branch.name == "region 0")
    both = torch.stack([view[0, :, :, 8:].flatten(), ctx.x_t[0, :, :, 8:].flatten()])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.2


def test_multidiffusion_wants_a_prompt_per_region_and_one_for_the_rest(tiny):
    with pytest.raises(
        ValueError, match="image 0 has 2 prompts for 2 regions: give one per region and one for the rest"
    ):
        start(tiny, [MultiDiffusion(LAYOUTS, [["a", "b"], ["a", "b"]])])
    with pytest.raises(ValueError, match="prompts for 1 of 2 images"):
        start(tiny, [MultiDiffusion(LAYOUTS, [["a", "b", "c"]])])


# --- Composable Diffusion --------------------------------------------------------------------------------------------


def test_one_concept_that_is_the_prompt_equals_cfg(tiny):
    run = sample(tiny, PROMPTS, [Composable([[prompt] for prompt in PROMPTS], 5)], steps=4)
    plain = sample(tiny, PROMPTS, [CFG(5)], steps=4)
    torch.testing.assert_close(run.images, plain.images, atol=1e-4, rtol=0)


@torch.no_grad()
def test_concepts_are_added(tiny):
    method = Composable([["a red car", "a blue fish"], ["a ball"]], 3.0)
    ctx = start(tiny, [method])
    predict(ctx, [method])
    x_t = ctx.x_t[:1], ctx.x_t[1:]
    none, car, fish = (tiny.predict(x_t[0], ctx.t, tiny.encode_text([c])) for c in ("", "a red car", "a blue fish"))
    torch.testing.assert_close(ctx.pred[:1], none + 3 * (car - none) + 3 * (fish - none), atol=1e-5, rtol=1e-4)
    none, ball = (tiny.predict(x_t[1], ctx.t, tiny.encode_text([c])) for c in ("", "a ball"))
    torch.testing.assert_close(ctx.pred[1:], none + 3 * (ball - none), atol=1e-5, rtol=1e-4)


def test_concepts_are_wanted_for_every_image(tiny):
    with pytest.raises(ValueError, match="concepts for 1 of 2 images: give every one"):
        start(tiny, [Composable([["a"]])])
    with pytest.raises(ValueError, match="image 1 has no concepts: give at least one"):
        start(tiny, [Composable([["a"], []])])


# --- Directed Diffusion ----------------------------------------------------------------------------------------------


def test_bump_is_one_at_the_centre_and_zero_outside():
    box = torch.zeros(1, 2, 9, 12)
    box[0, 0, 2:7, 4:7] = 1  # 5 x 3 cells about (4, 5); the other region is padding
    found = bump(box)
    assert found[0, 0, 4, 5] == 1 and found.max() == 1 and not found[0, 1].any()
    assert (found[box == 0] == 0).all() and (found[box == 1] > 0).all()
    torch.testing.assert_close(found[0, 0, 2, 5], torch.tensor(-((2 / 2.5) ** 2) / 2).exp())
    torch.testing.assert_close(found[0, 0, 4, 4], torch.tensor(-((1 / 1.5) ** 2) / 2).exp())
    torch.testing.assert_close(found.flip(3), bump(box.flip(3)))


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_attention_is_directed(tiny, scale):
    directed = Directed(LAYOUTS, scale)
    (edit,) = directed.edits(start(tiny, [directed]))
    probs = randoms(2, 4, 64, 77, dtype=torch.float32)
    found = edit.probs(probs, Site("x", "cross", "up", 2, 0))
    length = len(tiny.pipe.tokenizer(PROMPTS[1])["input_ids"])
    assert length == 9
    edited = [2, 3, *range(8, 8 + 15)]  # blue ball, and from the end of text on
    ball = torch.zeros(1, 1, 8, 8)
    ball[..., :4, 4:] = 1
    inside, shape = ball.flatten().bool(), bump(ball).flatten()[None, :, None]
    own = probs[1][..., edited]
    expected = own + scale * own.amax(1, keepdim=True) * shape
    torch.testing.assert_close(found[1][..., edited][:, inside], expected[:, inside])
    torch.testing.assert_close(found[1][..., edited][:, ~inside], 0.01 * own[:, ~inside])
    kept = [k for k in range(77) if k not in edited]
    assert torch.equal(found[1][..., kept], probs[1][..., kept])


def test_trailing_tokens_belong_to_any_box(tiny):
    directed = Directed(LAYOUTS, scale=0.0, trailing=1)
    (edit,) = directed.edits(start(tiny, [directed]))
    end = len(tiny.pipe.tokenizer(PROMPTS[0])["input_ids"]) - 1
    found = edit.probs(torch.ones(2, 1, 64, 77), Site("x", "cross", "up", 2, 0))[0, 0].view(8, 8, 77)
    both = torch.full((8, 8), 0.01)
    both[2:6, :4] = both[2:6, 5:] = 1
    torch.testing.assert_close(found[..., end], both)
    assert (found[..., end + 1 :] == 1).all() and (found[..., 0] == 1).all()


# --- watching --------------------------------------------------------------------------------------------------------


def test_watching_changes_nothing_and_the_trace_gets_maps_of_the_regions(mini):
    trace = Trace([1, 0])
    run = sample(mini, PROMPTS, [CFG(5), Watch(LAYOUTS)], steps=3, trace=trace)
    torch.testing.assert_close(run.images, sample(mini, PROMPTS, [CFG(5)], steps=3).images, atol=1e-4, rtol=0)
    assert run.cost.backwards == 0 and run.cost.forwards == 2 * 2 * 3
    one, two = trace.records
    names = [name for name in two.maps if name.startswith("attention.")]
    assert len(names) == 10 and "attention.up_blocks.1.attentions.0" in names
    for name in names:
        side = {"0": 16, "1": 8, "2": 4}.get(name.split(".")[2]) if "down" in name else 4
        side = {"0": 4, "1": 8, "2": 16}[name.split(".")[2]] if "up_blocks" in name else side
        assert two.maps[name].shape == (3, 2, side, side) and two.maps[name].dtype == np.float16
        assert one.maps[name].shape == (3, 1, side, side), "the other image has one region only"
        assert (two.maps[name] > 0).any((0, 2, 3)).all() and (two.maps[name] <= 1).all()


def test_what_is_watched_is_the_mean_of_the_heads_after_the_edits(tiny):
    def watched(*methods):
        trace = Trace([0])
        sample(tiny, PROMPTS, [CFG(5), *methods, Watch(LAYOUTS)], steps=2, trace=trace)
        return trace.records[0].maps["attention.down_blocks.1.attentions.0"][0]

    ctx = evaluated(tiny, Watch(LAYOUTS), t=999, steps=2)
    first = next(maps for site, maps in ctx.attention.maps.items() if site.place == "down")
    plain = watched()
    np.testing.assert_allclose(plain[0], first[0, ..., 3].detach().mean(0).view(8, 8), atol=1e-3)
    injected = watched(ILGD(LAYOUTS, weight=0.0, injection=2.0, injection_window=Window()))
    assert (injected[0, 2:6, :4] > plain[0, 2:6, :4]).all(), "the car in its box"
    assert (injected[0, 2:6, 5:] < plain[0, 2:6, 5:]).all(), "and less of it in the fish's"
    np.testing.assert_allclose(injected[0, [0, 1, 6, 7]], plain[0, [0, 1, 6, 7]], atol=1e-3)


def test_without_a_trace_nothing_is_recorded(tiny):
    backbone = Backbone(copy.copy(tiny.pipe))
    kinds = set()
    hook = backbone.pipe.unet.register_forward_pre_hook(
        lambda unet, _: kinds.update(type(p).__name__ for p in unet.attn_processors.values())
    )
    sample(backbone, PROMPTS, [CFG(5), Watch(LAYOUTS)], steps=2)
    hook.remove()
    assert kinds == {"AttnProcessor2_0"}
