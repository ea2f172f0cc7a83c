"""One knob at a time: each changes what it says and nothing else, its neutral value is the full case, and the errors
that are put into guides and layouts are as large as stated, the same in every call, and leave valid boxes."""

from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
import torch
import yaml

from helpers.backbones import load_backbone
from helpers.conditions import Region
from helpers.experiments.robustness import BLOCK, KNOBS, SMALLEST, setup, unguided
from helpers.miniature.benchmark import load_captioned
from helpers.params import Curve, load
from helpers.paths import ROOT
from helpers.perception.disturbed import DisturbedClicks, DisturbedDetector, DisturbedFlow, DisturbedSegmenter
from helpers.sampling import sample

PARAMS = load("smoke")
MODULES = ("layout", "text", "drag")
TURNED = [(module, knob) for module in MODULES for knob in ("guide", "window", "strength", "seed")]
TURNED += [("drag", "mask"), ("layout", "layout_noise"), ("layout", "layout_missing")]


def any_curve(module):
    return Curve(module=module, knob="window", values=(0.1, 1))


@pytest.fixture(scope="module")
def runs():
    """Every module as it is in its own experiment, with the trained nets."""
    backbone = load_backbone("mini-sd", "cpu")
    return {module: setup(PARAMS, any_curve(module), backbone) for module in MODULES}


@pytest.fixture(scope="module")
def many(runs):
    """Layouts of all test cases."""
    scenes = load_captioned("test", "short")
    return replace(runs["layout"], scenes=scenes, asked=scenes)


def told(run):
    """All that the guidance of a setup is told, as plain data."""
    methods = run.guidance_of(run.scenes)
    asked = [getattr(m, name) for m in methods for name in ("layouts", "drags") if hasattr(m, name)]
    clicks = [(m.clicks.grow, m.clicks.shift) for m in methods if hasattr(m, "clicks")]
    return [method.settings() for method in methods], asked, clicks


def changed(before, after) -> set[str]:
    """Which fields of a setup another one does not share."""
    return {f.name for f in fields(before) if getattr(before, f.name) != getattr(after, f.name)}


# --- the setup -------------------------------------------------------------------------------------------------------


def test_a_module_runs_as_in_its_experiment_on_the_first_test_cases(runs):
    for module, block in BLOCK.items():
        run = runs[module]
        assert run.case == getattr(PARAMS, block).case("full") and run.params is PARAMS and run.module == module
        assert run.scenes == run.asked and len(run.scenes) == PARAMS.profile.curve
        assert [scene.id for scene in run.scenes] == ["test-000", "test-001"]
    assert runs["layout"].scenes[0] == load_captioned("test", "short")[0]
    assert runs["text"].scenes[0] == load_captioned("test", "long")[0]
    drag = runs["drag"].guidance_of(runs["drag"].scenes)[0]
    assert drag.drags == [scene.drag for scene in runs["drag"].scenes] and drag.flow is runs["drag"].nets.flow


@pytest.mark.parametrize("module", MODULES)
def test_the_baseline_never_acts(runs, module):
    run = unguided(runs[module])
    energies = [method for method in run.guidance_of(run.scenes) if method.energy]
    assert all(method.window.stop == 0 for method in energies) and run.scenes


def test_guidance_of_some_scenes_is_asked_in_their_order(runs):
    run = runs["layout"]
    (_, dga), (_, alone) = (run.guidance_of(part) for part in (run.scenes[::-1], run.scenes[1:]))
    assert [layout.prompt for layout in dga.layouts] == [scene.prompt for scene in run.scenes[::-1]]
    assert alone.layouts == dga.layouts[:1]


def test_sources_inverted_once_draw_what_every_run_would_invert(runs):
    run, backbone = runs["drag"], load_backbone("mini-sd", "cpu")
    own = replace(run, nets=replace(run.nets, sources=None))
    part = run.scenes[::-1]
    drawn = [
        sample(backbone, [s.prompt for s in part], one.guidance_of(part), steps=PARAMS.profile.steps)
        for one in (run, own)
    ]
    torch.testing.assert_close(drawn[0].images, drawn[1].images, atol=2e-3, rtol=0)
    assert drawn[0].cost.forwards < drawn[1].cost.forwards


# --- knobs -----------------------------------------------------------------------------------------------------------


def test_every_curve_of_the_parameters_turns_a_knob_that_its_module_has():
    assert set(KNOBS) == set(get_args(Curve.model_fields["knob"].annotation)) == {knob for _, knob in TURNED}
    assert {(curve.module, curve.knob) for curve in PARAMS.robustness.curves.values()} <= set(TURNED)


@pytest.mark.parametrize(("module", "knob"), TURNED)
def test_the_neutral_value_of_a_knob_is_the_full_case(runs, module, knob):
    run = KNOBS[knob](runs[module], {"window": runs[module].case.window, "strength": 1}.get(knob, 0))
    assert told(run) == told(runs[module])
    assert run.scenes == runs[module].scenes and run.asked == runs[module].asked


@pytest.mark.parametrize(("module", "knob"), TURNED)
def test_a_turned_knob_leaves_the_setup_before_it_as_it_was(runs, module, knob):
    before = told(runs[module])
    KNOBS[knob](runs[module], 0.3 if knob == "window" else 2)
    assert told(runs[module]) == before


@pytest.mark.parametrize("module", MODULES)
def test_the_window_knob_sets_the_share_of_guided_steps(runs, module):
    run = KNOBS["window"](runs[module], 0.2)
    assert changed(runs[module], run) == {"case"}
    assert run.case == runs[module].case.model_copy(update={"window": 0.2})
    (*_, settings), *rest = told(run)
    (*_, before), *as_before = told(runs[module])
    assert settings["window"] == {"start": 0.0, "stop": 0.2} and rest == as_before
    assert settings | {"window": None} == before | {"window": None}


@pytest.mark.parametrize("module", MODULES)
def test_the_strength_knob_multiplies_the_tuned_strength(runs, module):
    run = KNOBS["strength"](runs[module], 4)
    assert changed(runs[module], run) == {"params"}
    (*_, settings), *rest = told(run)
    (*_, before), *as_before = told(runs[module])
    scale = getattr(PARAMS, BLOCK[module]).strength.scale
    assert settings["strength"] == before["strength"] | {"scale": 4 * scale} and rest == as_before
    assert settings | {"strength": None} == before | {"strength": None}
    others = set(BLOCK.values()) - {BLOCK[module]} | {"sampling", "profile", "combinations"}
    assert all(getattr(run.params, name) == getattr(PARAMS, name) for name in others)


@pytest.mark.parametrize("module", MODULES)
def test_the_seed_knob_draws_the_same_prompts_from_other_noise(runs, module):
    seeds = set()
    for number in range(5):
        run = KNOBS["seed"](runs[module], number)
        assert run.asked == run.scenes and changed(runs[module], run) <= {"scenes", "asked"}
        assert told(run) == told(runs[module])
        seeds |= {scene.seed for scene in run.scenes}
        again = [scene.model_copy(update={"seed": 0}) for scene in run.scenes]
        assert again == [scene.model_copy(update={"seed": 0}) for scene in runs[module].scenes]
    assert len(seeds) == 5 * len(runs[module].scenes)


@pytest.mark.parametrize("grow", [-4, 2])
def test_the_mask_knob_grows_the_click_segmenters_masks(runs, grow):
    run = KNOBS["mask"](runs["drag"], float(grow))
    assert changed(runs["drag"], run) == {"case"}
    (dma,) = run.guidance_of(run.scenes)
    assert isinstance(dma.clicks, DisturbedClicks) and (dma.clicks.grow, dma.clicks.shift) == (grow, (0, 0))
    assert dma.clicks.clicks is runs["drag"].nets.clicks and dma.flow is runs["drag"].nets.flow
    assert told(run)[:2] == told(runs["drag"])[:2]


def test_the_guide_knob_disturbs_the_segmenter_of_layouts(runs):
    run = KNOBS["guide"](runs["layout"], 2)
    (_, dga) = run.guidance_of(run.scenes)
    assert changed(runs["layout"], run) == {"nets"} and told(run) == told(runs["layout"])
    assert isinstance(dga.segmenter, DisturbedSegmenter)
    assert dga.segmenter.segmenter is runs["layout"].nets and dga.segmenter.logits == 2


def test_the_guide_knob_disturbs_the_detector_of_prompts_and_not_clip(runs):
    run, nets = KNOBS["guide"](runs["text"], 4), runs["text"].nets
    (_, dca) = run.guidance_of(run.scenes)
    assert changed(runs["text"], run) == {"nets"} and told(run) == told(runs["text"])
    assert isinstance(dca.detector, DisturbedDetector) and dca.detector.detector is nets.detector
    assert dca.similarity is nets.similarity
    torch.testing.assert_close(dca.detector.error, 4 * DisturbedDetector(None, 1).error)


def test_the_guide_knob_disturbs_the_flow_of_drags_and_nothing_else(runs):
    run, nets = KNOBS["guide"](runs["drag"], 3), runs["drag"].nets
    (dma,) = run.guidance_of(run.scenes)
    assert changed(runs["drag"], run) == {"case"} and told(run) == told(runs["drag"])
    assert isinstance(dma.flow, DisturbedFlow) and dma.flow.flow is nets.flow and dma.flow.pixels == 3
    assert dma.clicks.clicks is nets.clicks and dma.features is nets.features


@pytest.mark.parametrize(("module", "error"), [("layout", 4), ("text", 8)])
def test_a_picture_is_the_full_cases_at_error_0_and_another_one_beyond(runs, module, error):
    backbone = load_backbone("mini-sd", "cpu")

    def picture(run):
        (scene,) = run.scenes[1:]
        return sample(backbone, scene.prompt, run.guidance_of([scene]), steps=2, seeds=[scene.seed]).images

    full, exact, wrong = (
        picture(run) for run in (runs[module], *(KNOBS["guide"](runs[module], e) for e in (0, error)))
    )
    assert torch.equal(exact, full) and (wrong - full).abs().max() > 0.05


# --- layouts that are wrong ------------------------------------------------------------------------------------------


def boxes(run):
    return np.array([region.box for scene in run.asked for region in scene.layout.regions])


@pytest.mark.parametrize("amount", [0.05, 0.2, 2.0])
def test_noisy_boxes_are_valid_large_enough_and_inside(many, amount):
    run = KNOBS["layout_noise"](many, amount)
    for scene, meant in zip(run.asked, many.scenes, strict=True):
        for region, own in zip(scene.layout.regions, meant.layout.regions, strict=True):
            Region.model_validate(region.model_dump())
            assert region.model_copy(update={"box": own.box}) == own
    low, high = np.split(boxes(run), 2, axis=1)
    assert low.min() >= 0 and high.max() <= 1 and (high - low).min() >= SMALLEST - 1e-9
    assert (boxes(run) != boxes(many)).any(1).mean() > 0.95


@pytest.mark.parametrize("knob", ["layout_noise", "layout_missing"])
def test_what_is_scored_is_what_was_meant(many, knob):
    run = KNOBS[knob](many, 0.5)
    assert changed(many, run) == {"asked"} and run.scenes is many.scenes
    for scene, meant in zip(run.asked, run.scenes, strict=True):
        assert scene.model_copy(update={"layout": meant.layout}) == meant
    (_, dga) = run.guidance_of(run.scenes[:3])
    assert dga.layouts == [scene.layout.boxes_only() for scene in run.asked[:3]]
    assert dga.layouts != [scene.layout.boxes_only() for scene in run.scenes[:3]]


@pytest.mark.parametrize(("knob", "value"), [("layout_noise", 0.2), ("layout_missing", 0.5)])
def test_wrong_layouts_repeat_exactly(many, knob, value):
    assert KNOBS[knob](many, value).asked == KNOBS[knob](many, value).asked
    part = replace(many, scenes=many.scenes[:5], asked=many.asked[:5])
    assert KNOBS[knob](part, value).asked == KNOBS[knob](many, value).asked[:5], "on fewer cases, too"


def test_sides_move_by_the_amount_and_further_the_same_way(many):
    one, two = (boxes(KNOBS["layout_noise"](many, amount)) - boxes(many) for amount in (0.01, 0.02))
    inner = (boxes(many) > 0.1) & (boxes(many) < 0.9)
    assert inner.sum() > 500
    assert np.sqrt((one[inner] ** 2).mean()) == pytest.approx(0.01, rel=0.05)
    assert abs(one[inner].mean()) < 0.001
    np.testing.assert_allclose(two[inner], 2 * one[inner], atol=1e-9)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
def test_about_the_share_of_the_regions_is_missing_and_never_all(many, share):
    run, wanted = KNOBS["layout_missing"](many, share), 0.0
    for scene, meant in zip(run.asked, many.scenes, strict=True):
        kept, regions = scene.layout.regions, meant.layout.regions
        assert 1 <= len(kept) and list(kept) == [region for region in regions if region in kept]
        wanted += len(regions) * (1 - share) + share ** len(regions)
    kept = sum(len(scene.layout.regions) for scene in run.asked)
    assert abs(kept - wanted) < 3 * np.sqrt(500 * share * (1 - share)) + 1e-9


def test_what_is_missing_at_a_small_share_is_missing_at_a_larger_one(many):
    few, most = (KNOBS["layout_missing"](many, share).asked for share in (0.75, 0.25))
    for scene, fuller in zip(few, most, strict=True):
        assert set(scene.layout.regions) <= set(fuller.layout.regions) or len(scene.layout.regions) == 1


# --- guides that are wrong -------------------------------------------------------------------------------------------


class Steps:
    """A segmenter by hand: phrase n has the logit n + the image's mean colour."""

    def embed(self, phrases):
        return torch.arange(float(len(phrases)))[:, None]

    def __call__(self, images, embeddings):
        numbers = embeddings if embeddings.dim() == 3 else embeddings.expand(len(images), -1, -1)
        return images.mean(1, keepdim=True) + numbers[..., None]


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_disturbed_segmenter_is_wrong_by_as_much_as_asked(size):
    right, images = Steps(), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    words = right.embed(["car", "fish", "ball"])
    error = DisturbedSegmenter(right, 2.5)(images, words) - right(images, words)
    rms = error.square().mean((2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.full((2, 3), 2.5))
    torch.testing.assert_close(error[0], error[1])
    assert error.abs().max() < 12
    apart = (error[0, 0] - error[0, 1]).square().mean().sqrt()
    assert apart > 1, "another error for every phrase"
    assert all(error.diff(dim=dim).square().mean().sqrt() < 1 for dim in (2, 3)), "of white noise it would be 3.5"


def test_a_disturbed_segmenter_says_the_same_in_every_call():
    images, words = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.ones(2, 2, 1)
    wrong = DisturbedSegmenter(Steps(), 2.0)
    assert torch.equal(wrong(images, words), wrong(images, words))
    assert torch.equal(wrong(images, words), DisturbedSegmenter(Steps(), 2.0)(images, words))
    assert not torch.allclose(wrong(images, words), DisturbedSegmenter(Steps(), 2.0, seed=1)(images, words))
    assert torch.equal(wrong(images[:1], words[:1]), wrong(images, words)[:1])


def test_a_segmenter_with_error_0_is_exact_and_embeds_as_before(runs):
    right = runs["layout"].nets
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    exact = DisturbedSegmenter(right, 0.0)
    words = exact.embed(["red car", "blue fish"])
    assert torch.equal(words, right.embed(["red car", "blue fish"]))
    assert torch.equal(exact(images, words), right(images, words))
    grads = [torch.autograd.grad(net(images, words).square().sum(), images)[0] for net in (exact, right)]
    assert torch.equal(*grads) and grads[0].any()


class Boxes:
    """A detector by hand: always these boxes, the last one not found."""

    boxes = torch.tensor([[10.0, 12, 30, 40], [0, 0, 24, 20], [40, 30, 48, 48], [0, 0, 0, 0]])
    scores = torch.tensor([0.9, 0.5, 0.7, 0.0])

    def __call__(self, images, phrases):
        return self.boxes.expand(len(images), -1, -1).clone(), self.scores.expand(len(images), -1).clone()


PICTURES = torch.zeros(2, 3, 48, 64)
PHRASES = [["red car", "blue fish", "ball", "star"]] * 2


def test_a_detector_with_error_0_is_exact():
    boxes, scores = DisturbedDetector(Boxes(), 0.0)(PICTURES, PHRASES)
    assert torch.equal(boxes[0, :3], Boxes.boxes[:3]) and torch.equal(scores[1], Boxes.scores)


def test_what_is_not_found_stays_without_a_box():
    boxes, scores = DisturbedDetector(Boxes(), 3.0)(PICTURES, PHRASES)
    assert not scores[:, 3].any() and not boxes[:, 3].any()


@pytest.mark.parametrize("pixels", [1.0, 8.0, 100.0])
def test_disturbed_boxes_are_valid_and_inside(pixels):
    for seed in range(20):
        boxes, scores = DisturbedDetector(Boxes(), pixels, seed)(PICTURES, PHRASES)
        low, high = boxes[:, :3].split(2, -1)
        assert low.min() >= 0 and (high <= torch.tensor([64, 48])).all() and (high - low).min() >= 1
        assert torch.equal(scores, Boxes.scores.expand(2, -1)) and not torch.equal(boxes[0], Boxes.boxes)


def test_a_disturbed_detector_moves_sides_by_as_much_as_asked_and_the_same_in_every_call():
    middle = Boxes()
    middle.boxes, middle.scores = torch.tensor([[400.0, 400, 600, 600]]).repeat(4, 1), torch.ones(4)
    images, found = torch.zeros(2, 3, 1000, 1000), []
    for seed in range(100):
        wrong = DisturbedDetector(middle, 4.0, seed)
        boxes, _ = wrong(images, PHRASES)
        assert torch.equal(boxes, wrong(images, PHRASES)[0]) and torch.equal(boxes[0], boxes[1])
        assert len(boxes[0].unique(dim=0)) == 4, "otherwise for each phrase"
        found.append(boxes[0] - middle.boxes)
    error = torch.stack(found)
    assert error.square().mean().sqrt().item() == pytest.approx(4, rel=0.05) and abs(error.mean()) < 0.5


# --- parameters ------------------------------------------------------------------------------------------------------

GOOD = {"module": "drag", "knob": "mask", "values": [-4, 0, 4]}


def test_an_unknown_curve_lists_the_known_ones():
    known = list(PARAMS.robustness.curves)
    with pytest.raises(ValueError, match=f"unknown curve 'detector': use one of {', '.join(known)}$"):
        PARAMS.robustness.curve("detector")


@pytest.mark.parametrize(
    ("run", "wrong", "said"),
    [
        (["mine"], {"values": [2]}, "robustness.curves.mine.values: Tuple should have at least 2 items"),
        (["mine", "yours"], {}, "unknown curve 'yours': use one of mine"),
        (["mine"], {"knob": "maks"}, "robustness.curves.mine.knob: Input should be 'guide', 'mask'"),
        (["mine"], {"module": "drags"}, "'layout', 'text' or 'drag'"),
        (["mine"], {"value": [1, 2]}, "robustness.curves.mine.value: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_curve_is_named(tmp_path, run, wrong, said):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())

    def written(**changes):
        values["robustness"] = {"run": run[:1], "curves": {"mine": GOOD}} | changes
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "params.yaml"

    assert load(path=written()).robustness.curve("mine").values == (-4, 0, 4)
    with pytest.raises(ValueError) as error:
        load(path=written(run=run, curves={"mine": GOOD | wrong}))
    assert said in str(error.value)


def test_another_profile_can_be_chosen_once_one_was_read():
    params = load("smoke")
    assert params.profile != load("quick").profile
    assert params.choose_profile("quick").profile == load("quick").profile
