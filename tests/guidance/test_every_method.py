"""What every method owes, whatever it does. Methods are found in helpers/guidance, none is listed here: how the fields
are filled that hold conditions and models is said by their names, and a method's own file tests its maths."""

import copy
import importlib
import inspect
import json
import pickle
import pkgutil
from dataclasses import MISSING, fields, replace
from functools import cache
from math import inf, nan

import numpy as np
import pytest
import torch
from tiny_pipelines import PIPELINES, tiny_backbone

import helpers.guidance
from helpers.conditions import Drag, Layout, Move, Region, encode_image, encode_mask
from helpers.guidance.cfg import CFG
from helpers.paths import weights
from helpers.sampling.hooks import EnergyGuidance, Guidance, Recurrence, Window
from helpers.sampling.loop import sample
from helpers.sampling.strength import Raw, Strength


def _found() -> list[type[Guidance]]:
    names = [f"helpers.guidance.{one.name}" for one in pkgutil.iter_modules(helpers.guidance.__path__)]
    classes = {one for name in names for one in vars(importlib.import_module(name)).values() if inspect.isclass(one)}
    own = [one for one in classes if issubclass(one, Guidance) and one.__module__ in names]
    return sorted(own, key=lambda one: one.__name__)


METHODS = _found()
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda one: one.__name__)

# --- how a method is given what it needs ----------------------------------------------------------------------------

PROMPTS = ["a red car", "a blue ball and a red car", "a red car left of a blue fish on the grass"]
BOXES = [(0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75), (0.0, 0.75, 1.0, 1.0)]
PHRASES = [["red car"], ["blue ball", "red car"], ["red car", "blue fish", "grass"]]  # one region and several


def layouts(prompts, size) -> list[Layout]:
    found = dict(zip(PROMPTS, PHRASES, strict=True))
    return [
        Layout(prompt=p, regions=[Region(phrase=f, box=b) for f, b in zip(found[p], BOXES, strict=False)])
        for p in prompts
    ]


def drags(prompts, size) -> list[Drag]:
    height, width = size
    picture = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    mask = np.zeros(size, bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    source, move = encode_image(picture.repeat(8, 0).repeat(8, 1)), Move(handle=(0.375, 0.375), target=(0.6, 0.5))
    return [Drag(prompt=p, source=source, moves=[move], mask=encode_mask(mask)) for p in prompts]


class Channels(torch.nn.Module):
    """A segmenter by hand: a phrase's logit is a fixed mix of a pixel's colours."""

    def embed(self, phrases):
        mixes = [torch.randn(3, generator=torch.Generator().manual_seed(sum(map(ord, p)))) for p in phrases]
        return torch.stack(mixes)

    def forward(self, images, embeddings):
        return torch.einsum("bchw,bnc->bnhw", images - 0.5, embeddings.to(images))


@cache
def guide(kind: str):
    """A trained guide of the miniature, which looks at any picture."""
    if kind == "segmenter":
        return Channels()
    module, made, folder = {
        "similarity": ("similarity", "Similarity", "clip"),
        "features": ("features", "Features", "dino"),
        "flow": ("flow", "Flow", "raft"),
        "clicks": ("clicks", "ClickSegmenter", "sam"),
    }[kind]
    return getattr(importlib.import_module(f"helpers.perception.{module}"), made).load(weights(folder))


CONDITIONS = {"layouts": layouts, "drags": drags}
MODELS = ("segmenter", "similarity", "features", "flow", "clicks")
QUICK = {"most": 2, "recurrence": 2}  # how often something is done again, where a method does it more often
# By what share half precision may move the loss and the size of its gradient. The optical flow of a fresh network's
# pictures jumps with their last bits: 1 to 3 % of DMA's loss and half of its gradient, by the kernels that a processor
# has, with the source inverted in float32, too.
LIMITS = {"DMA": (0.05, 1.0)}
OFF = {"weight": 0.0, "scale": 0.0, "injection": 0.0, "paste": 0.0, "outside": 1.0}  # what switches a method off


def given(method, prompts=PROMPTS, size=(64, 64)) -> dict:
    """Conditions and models for a method's fields of these names."""
    names = {one.name for one in fields(method)}
    unknown = {one.name for one in fields(method) if one.default is MISSING} - set(CONDITIONS) - set(MODELS)
    assert not unknown, f"say in CONDITIONS or MODELS how {method.__name__} gets its {unknown}"
    found = {name: make(prompts, size) for name, make in CONDITIONS.items() if name in names}
    return found | {name: guide(name) for name in MODELS if name in names}


def quick(method, prompts=PROMPTS) -> Guidance:
    """The method with its defaults, but for repetitions."""
    few = {}
    for one in fields(method):
        if one.name == "recurrence" and one.default.times > QUICK["recurrence"]:
            few["recurrence"] = replace(one.default, times=QUICK["recurrence"])
        elif one.name in QUICK and one.name != "recurrence":
            few[one.name] = QUICK[one.name]
    return method(**given(method, prompts) | few)


def off(method) -> dict:
    return {name: value for name, value in OFF.items() if name in {one.name for one in fields(method)}}


def numbers(method):
    return [one for one in fields(method) if one.metadata.get("checked") and one.metadata["choices"] is None]


def run(backbone, methods, prompts=PROMPTS, **options):
    return sample(backbone, prompts, methods, **{"steps": 3} | options)


def beside_cfg(one: Guidance) -> list[Guidance]:
    """The method as it is used: with classifier-free guidance, unless it decides itself."""
    return [one] if one.decides else [CFG(3.0), one]


def leaves_start(method) -> bool:
    """Is the run without it its baseline: it neither begins elsewhere nor changes what the solver made?"""
    return method.start is Guidance.start and method.after is Guidance.after


def processors(backbone) -> dict:
    modules = backbone.denoiser.named_modules()
    return {name: module.processor for name, module in modules if hasattr(module, "processor")}


@cache
def baseline(name: str, cfg: bool = True) -> torch.Tensor:
    return run(tiny_backbone(name), [CFG(3.0)] if cfg else []).latents


@cache
def alone(method) -> tuple:
    """A method with its defaults, and its run with one image: what others are compared with."""
    one = quick(method, PROMPTS[2:])
    return one, run(tiny_backbone("sd21"), beside_cfg(one), PROMPTS[2:], seeds=[2], strict=True)


@cache
def half(dtype):
    backbone = copy.deepcopy(tiny_backbone("sd21"))
    backbone.pipe.to(dtype)
    backbone.dtype = dtype
    return backbone


# --- on every backbone ----------------------------------------------------------------------------------------------


def test_methods_are_found():
    assert {"CFG", "DGA"} <= {one.__name__ for one in METHODS}
    names = [one(**given(one)).name for one in METHODS]
    assert len(set(names)) == len(names)


@EACH
@pytest.mark.parametrize("name", PIPELINES)
def test_three_steps_or_a_refusal(method, name):
    """It acts, and leaves the layers as they were; or says at once what serves."""
    backbone = tiny_backbone(name)
    before, one = processors(backbone), quick(method, PROMPTS[2:])
    calls, handle = [], backbone.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        drawn = run(backbone, beside_cfg(one), PROMPTS[2:], seeds=[2], strict=True)
    except ValueError as refusal:
        assert not calls and one.name in str(refusal).lower() and "use " in str(refusal), refusal
        return
    finally:
        handle.remove()
        assert processors(backbone) == before
    assert drawn.images.isfinite().all() and not [w for w in drawn.warnings if "never acted" in w]
    assert (drawn.latents - baseline(name, cfg=not one.decides)[2:]).abs().max() > 1e-4


@EACH
@pytest.mark.parametrize("name", PIPELINES)
def test_switched_off_it_is_the_baseline(method, name):
    if not off(method) or method.decides or not leaves_start(method):
        pytest.skip("it draws something else than its absence at any setting")
    drawn = run(tiny_backbone(name), [CFG(3.0), method(**given(method) | off(method))])
    assert torch.equal(drawn.latents, baseline(name))


@EACH
@pytest.mark.parametrize("name", ["sd21", "sd3"])
def test_outside_its_window_it_is_the_baseline(method, name):
    if not leaves_start(method) or method.encode is not Guidance.encode:
        pytest.skip("it also acts outside its window")
    others = {one.name: Window(0, 0) for one in fields(method) if one.type is Window}
    one = method(**given(method) | others)
    others = [] if one.decides else [CFG(3.0)]
    assert torch.equal(run(tiny_backbone(name), [*others, one]).latents, baseline(name, cfg=not one.decides))


@EACH
def test_strength_0_is_the_baseline(method):
    if not issubclass(method, EnergyGuidance) or not leaves_start(method):
        pytest.skip("it has no gradient, or begins elsewhere")
    none = method(**given(method) | off(method) | {"weight": 1.0, "strength": Raw(0.0)})
    assert torch.equal(run(tiny_backbone("sd21"), [CFG(3.0), none]).latents, baseline("sd21"))


# --- batches, reuse, precision --------------------------------------------------------------------------------------


@EACH
def test_batches_of_one_and_two_agree(method):
    one, backbone, prompts = quick(method, PROMPTS[1:]), tiny_backbone("sd21"), PROMPTS[1:]
    together, apart = (run(backbone, beside_cfg(one), prompts, batch=batch) for batch in (2, 1))
    if one.name in together.curves:  # the loss where it is first computed
        losses = [drawn.curves[one.name] for drawn in (together, apart)]
        first = int(losses[0][0].isfinite().nonzero()[0])
        torch.testing.assert_close(losses[0][:, first], losses[1][:, first], atol=1e-4, rtol=1e-3)
    if not {"similarity", "features", "flow"} & {field.name for field in fields(method)}:
        # from there on gradients of trained guides amplify the rounding, see helpers.sampling.loop.sample
        torch.testing.assert_close(together.images, apart.images, atol=5e-3, rtol=0)
        assert (together.images - apart.images).abs().mean() < 1e-4


@EACH
def test_one_image_takes_one_condition_or_a_list_of_one(method):
    one, listed = alone(method)
    given = {field.name: getattr(one, field.name) for field in fields(method)}
    single = method(**{key: value[0] if isinstance(value, list) else value for key, value in given.items()})
    drawn = run(tiny_backbone("sd21"), beside_cfg(single), PROMPTS[2:], seeds=[2])
    assert torch.equal(drawn.latents, listed.latents)


@EACH
def test_an_object_serves_any_number_of_runs(method):
    one, first = alone(method)
    before = pickle.dumps(one.settings())
    second = run(tiny_backbone("sd21"), beside_cfg(one), PROMPTS[2:], seeds=[2])
    assert torch.equal(first.latents, second.latents) and pickle.dumps(one.settings()) == before


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(method, dtype):
    one, exact = alone(method)
    drawn = run(half(dtype), beside_cfg(one), PROMPTS[2:], seeds=[2], strict=True)
    assert drawn.images.isfinite().all()
    loss, gradient = LIMITS.get(method.__name__, (0.01, 0.15))
    for name, share in ((one.name, loss), ("grad_rms", gradient)):  # where they are first computed
        if name in exact.curves:
            first = int(exact.curves[name][0].isfinite().nonzero()[0])
            sizes = [which.curves[name][0, first].item() for which in (drawn, exact)]
            assert sizes[0] == pytest.approx(sizes[1], rel=share)
    if "grad_rms" not in exact.curves:  # from there on gradients amplify the rounding
        assert (drawn.images - exact.images).abs().mean() < 0.03


# --- settings -------------------------------------------------------------------------------------------------------


@EACH
def test_settings_are_plain_and_complete(method):
    one = method(**given(method))
    stated = json.loads(json.dumps(one.settings()))
    assert {number.name for number in numbers(method)} <= set(stated) and "window" in stated
    assert all(number.name in repr(one) for number in numbers(method))


@EACH
def test_it_survives_pickling(method):
    conditions = {key: value for key, value in given(method).items() if key in CONDITIONS}
    required = {one.name for one in fields(method) if one.default is MISSING} - set(conditions)
    one = method(**conditions | {name: None for name in required})
    other = pickle.loads(pickle.dumps(one))
    assert other.settings() == one.settings()
    assert all(getattr(other, name) == value for name, value in conditions.items())


@EACH
def test_it_cannot_be_changed(method):
    one = method(**given(method))
    with pytest.raises(AttributeError):
        one.window = Window(0, 0.5)
    with pytest.raises(TypeError, match="strenght"):
        method(**given(method), strenght=3)


@EACH
def test_wrong_numbers_are_refused_by_name(method):
    for one in numbers(method):
        low, high = one.metadata["low"], one.metadata["high"]
        wrong = [1, "no"] if isinstance(one.default, bool) else [nan, inf, -inf, "3", True, [1.0], 1j]
        wrong += [] if isinstance(one.default, bool) else [edge for edge in (low - 1, high + 1) if abs(edge) < inf]
        wrong += [] if one.default is None else [None]
        for value in wrong:
            with pytest.raises(ValueError, match=rf"{method.__name__}\({one.name}="):
                method(**given(method) | {one.name: value})


@EACH
def test_wrong_words_are_refused_with_the_right_ones(method):
    for one in fields(method):
        choices = one.metadata.get("choices")
        if choices is not None:
            with pytest.raises(ValueError, match=rf"\({one.name}='nonsense'\): use one of {list(choices)[0]}"):
                method(**given(method) | {one.name: "nonsense"})


@EACH
def test_wrong_windows_strengths_and_recurrences_are_refused(method):
    wrong = {
        Window: [(0.7, 0.2), (0, 2), (0,), (0, 1, 1), "0", 3, None, (nan, 1), {"begin": 0}, [True, 1]],
        Strength: [
            2.0,
            "raw",
            None,
            {"rule": "none"},
            {"scale": 1},
            {"rule": "raw", "scale": nan},
            {"rule": "raw", "x": 1},
        ],
        Recurrence: [3, "3", None, {"times": 0}, {"times": nan}, {"often": 3}, {"times": 2.5}],
    }
    for one in fields(method):
        for value in wrong.get(one.type, []):
            with pytest.raises(ValueError, match=rf"{method.__name__}\({one.name}="):
                method(**given(method) | {one.name: value})


@EACH
def test_plain_data_are_windows_strengths_and_recurrences(method):
    right = {
        Window: ([0, 0.5], Window(0, 0.5)),
        Strength: ({"rule": "raw", "scale": 2.0}, Raw(2.0)),
        Recurrence: ({"times": 2, "window": [0, 0.5]}, Recurrence(2, Window(0, 0.5))),
    }
    for one in fields(method):
        if one.type in right:
            plain, made = right[one.type]
            assert getattr(method(**given(method) | {one.name: plain}), one.name) == made


@EACH
@pytest.mark.parametrize("field", CONDITIONS)
def test_wrong_conditions_are_refused_before_any_work(method, field):
    stated = given(method)
    if field not in stated:
        pytest.skip(f"it has no {field}")
    optional = next(one for one in fields(method) if one.name == field).default is None
    backbone, calls = tiny_backbone("sd21"), []
    handle = backbone.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    wrong = [7, "a red car", PROMPTS, stated[field][:2], stated[field][::-1], [*stated[field][:2], None]]
    for value in wrong + ([] if optional else [None]):
        with pytest.raises(ValueError, match=f"(?i){method.__name__}|for 'a|{field[:-1]}"):
            run(backbone, beside_cfg(method(**stated | {field: value})))
    handle.remove()
    assert not calls


@EACH
def test_layers_are_restored_when_a_run_fails(method):
    backbone, one = tiny_backbone("sd21"), quick(method, PROMPTS[2:])
    before, count = processors(backbone), []

    def fail(*_):
        count.append(1)
        if len(count) == 2:
            raise KeyError("in the second evaluation")

    block = backbone.denoiser.up_blocks[-1]
    handle = block.register_forward_hook(fail)
    with pytest.raises(KeyError, match="second"):
        run(backbone, beside_cfg(one), PROMPTS[2:])
    handle.remove()
    assert processors(backbone) == before


@EACH
def test_the_papers_values_are_a_variant(method):
    if not hasattr(method, "paper"):
        pytest.skip("its defaults are its source's")
    theirs = method.paper(**given(method))
    assert type(theirs) is method
    changed = {one.name: getattr(theirs, one.name) for one in numbers(method)}
    assert method.paper(**given(method) | {"window": Window(0, 0.25)}).window == Window(0, 0.25) and changed
