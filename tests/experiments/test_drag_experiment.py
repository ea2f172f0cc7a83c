"""Cases of drags: what acts, what is wrong on purpose, and that without a method the inverted source is drawn again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hand_drags import DRAGS, PROMPTS, Blocks, Centroids, patches

from helpers.experiments.dma import Experiment, Nets, guidance_of
from helpers.guidance.cfg import CFG
from helpers.params import load
from helpers.perception.disturbed import DisturbedClicks, DisturbedFlow
from helpers.sampling.hooks import Window
from helpers.sampling.inversion import Inverted, invert
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace

PARAMS = load(Experiment, "smoke")
STEPS = 4
ASKED = [SimpleNamespace(drag=drag) for drag in DRAGS]
NETS = Nets("raft", "sam", "dino")


def method(name, **changes):
    case = PARAMS.case(name).stating(**changes)
    (made,) = guidance_of(PARAMS, case, ASKED, NETS)
    return made


def weights(one):
    return {name: value for name, value in one.settings().items() if name.endswith("_weight")}


def test_the_full_case_acts_with_the_papers_weight_and_keeps_the_background():
    full = method("full")
    assert (full.name, full.weight, full.blend) == ("dma", 90.0, Window(0, 1)) and full.window.stop > 0
    assert len(weights(full)) == 3 and all(weights(full).values()) and full.field == "rigid"
    assert full.drags == DRAGS and (full.flow, full.clicks.clicks, full.features) == ("raft", "sam", "dino")
    assert (full.clicks.grow, full.clicks.shift, full.trajectory) == (0, (0, 0), None)


@pytest.mark.parametrize("name", ["none", "none_drawn"])
def test_without_a_method_nothing_acts_and_no_background_is_kept(name):
    idle = method(name)
    assert idle.window == idle.blend == Window(0, 0)


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("displacement", {"appearance", "semantic"}),
        ("displacement_appearance", {"semantic"}),
        ("displacement_semantic", {"appearance"}),
    ],
)
def test_an_ablation_drops_its_terms_and_nothing_else(name, dropped):
    some, full = method(name), method("full")
    assert weights(some) == weights(full) | {f"{term}_weight": 0.0 for term in dropped}
    assert {**some.settings(), **weights(full)} == full.settings()


def test_other_settings_are_the_cases():
    early = {"start": 0.0, "stop": 0.3}
    fading = method("full", field="decaying", window=early)
    assert fading.settings() == method("full").settings() | {"field": "decaying", "window": early}


@pytest.mark.parametrize(("grow", "shift"), [(-2, (0, 0)), (2, (0, 0)), (0, (3, 0))])
def test_an_error_of_masks_is_put_around_the_click_segmenter(grow, shift):
    wrong = method("full", mask_grow=grow, mask_shift=shift)
    assert isinstance(wrong.clicks, DisturbedClicks) and wrong.clicks.clicks == "sam" and wrong.flow == "raft"
    assert (wrong.clicks.grow, wrong.clicks.shift) == (grow, shift)
    assert wrong.settings() == method("full").settings()


def test_an_error_of_the_flow_is_put_around_it():
    wrong = method("full", flow_error=4.0)
    assert isinstance(wrong.flow, DisturbedFlow) and (wrong.flow.flow, wrong.flow.pixels) == ("raft", 4.0)
    assert (wrong.clicks.grow, wrong.clicks.shift) == (0, (0, 0)) and wrong.settings() == method("full").settings()


QUICK = {"none": {}, "full": {"recurrence": {"times": 2}}}  # a step of the case itself is refined more often


@pytest.fixture(scope="module")
def runs(tiny):
    """case -> (run, its method, Trace): the drags of test_dma by the experiment's own guidance, through stand-ins."""
    nets = Nets(Centroids(), Blocks(), patches)
    made = {}
    for name in ("none", "full"):
        methods, trace = guidance_of(PARAMS, PARAMS.case(name).stating(**QUICK[name]), ASKED, nets), Trace([0, 2])
        made[name] = sample(tiny, PROMPTS, methods, steps=STEPS, trace=trace), trace
    return made


@pytest.fixture(scope="module")
def inverted(tiny):
    return invert(tiny, torch.stack([drag.image() for drag in DRAGS]), PROMPTS, STEPS)


def test_the_baseline_is_the_inverted_source_and_the_nets_watch_it(tiny, runs, inverted):
    run, trace = runs["none"]
    plain = sample(tiny, PROMPTS, [Inverted(trajectory=inverted)], steps=STEPS)
    assert torch.equal(run.images, plain.images) and run.cost.backwards == 0 and "grad_rms" not in run.curves
    for record in trace.records:
        assert np.isfinite(record.curves["dma.displacement"]).all() and record.maps["dma.mask"].any()


def test_the_full_case_changes_the_moved_region_only(runs, inverted):
    (before, _), (after, _) = runs["none"], runs["full"]
    kept = (after.latents == inverted.latents[-1]).all(1)
    assert after.cost.backwards > 0 and kept.any() and not kept.all()
    assert (after.latents - before.latents).abs().amax(1)[~kept].max() > 0.01


def test_without_cfg_there_is_no_effective_scale(tiny, runs):
    for run, _ in runs.values():
        assert run.eff_cfg.shape == (3,) and run.eff_cfg.isnan().all()
    guided = sample(tiny, PROMPTS[:1], [CFG(3)], steps=2)
    torch.testing.assert_close(guided.eff_cfg, torch.tensor([3.0]), atol=1e-3, rtol=0)
