"""One knob at a time: each changes what it says and nothing else, its neutral value is the full case, and the errors
that are put into layouts are as large as stated and the same in every call."""

from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
import torch
import yaml

from helpers.benchmarks.miniature import load_captioned
from helpers.conditions import Region
from helpers.experiments.robustness import EXPERIMENTS, KNOBS, SMALLEST, Curve, Experiment, setup, unguided
from helpers.params import load
from helpers.paths import ROOT
from helpers.perception.disturbed import DisturbedClicks, DisturbedDetector, DisturbedFlow, DisturbedSegmenter
from helpers.sampling.hooks import EnergyGuidance
from helpers.sampling.loop import sample

PARAMS = load(Experiment, "smoke")
MODULES = ("layout", "text", "drag")
TURNED = [(module, knob) for module in MODULES for knob in ("guide", "window", "strength", "seed")]
TURNED += [("drag", "mask"), ("layout", "layout_noise"), ("layout", "layout_missing")]


def any_curve(module):
    return Curve(module=module, knob="window", values=(0.1, 1))


@pytest.fixture(scope="module")
def runs(mini):
    """Every module as it is in its own experiment, with the trained nets."""
    return {module: setup("smoke", any_curve(module), mini) for module in MODULES}


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


def acting(run) -> EnergyGuidance:
    (found,) = (method for method in run.guidance_of(run.scenes) if isinstance(method, EnergyGuidance))
    return found


def changed(before, after) -> set[str]:
    """Which fields of a setup another one does not share."""
    return {f.name for f in fields(before) if getattr(before, f.name) != getattr(after, f.name)}


# --- the setup -------------------------------------------------------------------------------------------------------


def test_a_module_runs_as_in_its_experiment_on_the_first_test_cases(runs):
    for module, own in EXPERIMENTS.items():
        run, params = runs[module], load(own.Experiment, "smoke")
        assert run.case == params.case("full") and run.params == params and (run.module, run.strength) == (module, 1.0)
        assert run.scenes == run.asked and len(run.scenes) == PARAMS.profile.curve
        assert [scene.id for scene in run.scenes] == ["test-000", "test-001"]
    assert runs["layout"].scenes[0] == load_captioned("test", "short")[0]
    assert runs["text"].scenes[0] == load_captioned("test", "long")[0]
    drag = runs["drag"].guidance_of(runs["drag"].scenes)[0]
    assert drag.drags == [scene.drag for scene in runs["drag"].scenes] and drag.flow is runs["drag"].nets.flow


@pytest.mark.parametrize("module", MODULES)
def test_the_baseline_never_acts(runs, module):
    run = unguided(runs[module])
    energies = [method for method in run.guidance_of(run.scenes) if isinstance(method, EnergyGuidance)]
    assert all(method.window.stop == 0 for method in energies) and run.scenes


def test_guidance_of_some_scenes_is_asked_in_their_order(runs):
    run = runs["layout"]
    (_, dga), (_, alone) = (run.guidance_of(part) for part in (run.scenes[::-1], run.scenes[1:]))
    assert [layout.prompt for layout in dga.layouts] == [scene.prompt for scene in run.scenes[::-1]]
    assert alone.layouts == dga.layouts[:1]


def test_sources_inverted_once_draw_what_every_run_would_invert(runs, mini):
    run = unguided(runs["drag"])
    own = replace(run, nets=replace(run.nets, sources=None))
    part = run.scenes[::-1]
    drawn = [
        sample(mini, [s.prompt for s in part], one.guidance_of(part), steps=PARAMS.profile.steps) for one in (run, own)
    ]
    torch.testing.assert_close(drawn[0].images, drawn[1].images, atol=2e-3, rtol=0)
    assert drawn[0].cost.forwards < drawn[1].cost.forwards


# --- knobs -----------------------------------------------------------------------------------------------------------


def test_every_curve_of_the_parameters_turns_a_knob_that_its_module_has():
    assert set(KNOBS) == set(get_args(Curve.model_fields["knob"].annotation)) == {knob for _, knob in TURNED}
    assert {(curve.module, curve.knob) for curve in PARAMS.experiment.cases.values()} <= set(TURNED)


@pytest.mark.parametrize(("module", "knob"), TURNED)
def test_the_neutral_value_of_a_knob_is_the_full_case(runs, module, knob):
    run = KNOBS[knob](runs[module], {"window": acting(runs[module]).window.stop, "strength": 1}.get(knob, 0))
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
    assert run.case == runs[module].case.stating(window={"start": 0.0, "stop": 0.2})
    (*_, settings), *rest = told(run)
    (*_, before), *as_before = told(runs[module])
    assert settings["window"] == {"start": 0.0, "stop": 0.2} and rest == as_before
    assert settings | {"window": None} == before | {"window": None}


@pytest.mark.parametrize("module", MODULES)
def test_the_strength_knob_multiplies_the_tuned_strength(runs, module):
    run = KNOBS["strength"](runs[module], 4)
    assert changed(runs[module], run) == {"strength"}
    (*_, settings), *rest = told(run)
    (*_, before), *as_before = told(runs[module])
    scale = before["strength"]["scale"]
    assert settings["strength"] == before["strength"] | {"scale": 4 * scale} and scale > 0 and rest == as_before
    assert settings | {"strength": None} == before | {"strength": None}


def test_strength_0_is_the_prompt_alone(runs, mini):
    run = runs["layout"]
    (scene,) = run.scenes[1:]
    drawn = [
        sample(mini, scene.prompt, one.guidance_of([scene]), steps=2, seeds=[scene.seed]).images
        for one in (KNOBS["strength"](run, 0), unguided(run))
    ]
    assert torch.equal(*drawn)


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
def test_a_picture_is_the_full_cases_at_error_0_and_another_one_beyond(runs, mini, module, error):
    def picture(run):
        (scene,) = run.scenes[1:]
        return sample(mini, scene.prompt, run.guidance_of([scene]), steps=2, seeds=[scene.seed]).images

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


# --- parameters ------------------------------------------------------------------------------------------------------

GOOD = {"module": "drag", "knob": "mask", "values": [-4, 0, 4]}


def test_an_unknown_curve_lists_the_known_ones():
    known = list(PARAMS.experiment.cases)
    with pytest.raises(ValueError, match=f"unknown case 'detector': use one of {', '.join(known)}$"):
        PARAMS.case("detector")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"values": [2]}, "robustness.cases.mine.values: Tuple should have at least 2 items"),
        ({"knob": "maks"}, "robustness.cases.mine.knob: Input should be 'guide', 'mask'"),
        ({"module": "drags"}, "'layout', 'text' or 'drag'"),
        ({"value": [1, 2]}, "robustness.cases.mine.value: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_curve_is_named(tmp_path, wrong, said):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())

    def written(**changes):
        values["robustness"] = {"cases": {"mine": GOOD | changes}}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "params.yaml"

    assert load(Experiment, path=written()).case("mine").values == (-4, 0, 4)
    with pytest.raises(ValueError) as error:
        load(Experiment, path=written(**wrong))
    assert said in str(error.value)
