"""A factor is a backbone with conditions: what reaches its network, what is refused, that every method works inside."""

import json

import pytest
import torch
from tiny_pipelines import tiny_backbone

from helpers.conditions import Layout, Region
from helpers.factor_graph.factor import READS, Conditions, ControlledBackbone, load_factor, stacked
from helpers.guidance.cfg import CFG
from helpers.guidance.ilgd import ILGD
from helpers.sampling.loop import sample

PROMPTS, SEEDS = ["a red car", "a blue ball", "a car"], [0, 1, 2]


@pytest.fixture(scope="module")
def base():
    return tiny_backbone("sd21")


@pytest.fixture(scope="module")
def maps(base):
    g = torch.Generator().manual_seed(0)
    return {name: torch.rand(3, 3, *base.image_size, generator=g) for name in ("segmentation", "depth")}


@pytest.fixture(scope="module")
def factor(base, control):
    return ControlledBackbone(base, control(2), ["segmentation", "depth"])


def drawn(backbone, *methods, **options):
    return sample(backbone, PROMPTS, [*methods, CFG(3.0)], **{"steps": 3, "seeds": SEEDS} | options).latents


def test_an_untrained_one_draws_what_its_base_draws(base, control, maps):
    fresh = ControlledBackbone(base, control(2, trained=False), ["segmentation", "depth"])
    assert torch.equal(drawn(fresh, Conditions(maps=maps)), drawn(base))


def test_maps_decide_what_is_drawn(factor, maps):
    both, none = drawn(factor, Conditions(maps=maps)), drawn(factor)
    one = drawn(factor, Conditions(maps={"depth": maps["depth"]}))
    swapped = drawn(factor, Conditions(maps={"depth": maps["segmentation"], "segmentation": maps["depth"]}))
    for a, b in ((both, none), (both, one), (one, none), (both, swapped)):
        assert (a - b).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.equal(drawn(factor, Conditions(maps={})), none)


def test_every_picture_has_its_own_map_in_batches_of_any_size(factor, maps):
    together = drawn(factor, Conditions(maps=maps))
    torch.testing.assert_close(drawn(factor, Conditions(maps=maps), batch=1), together, atol=1e-4, rtol=1e-4)
    order = [2, 0, 1]
    found = sample(
        factor,
        [PROMPTS[k] for k in order],
        [Conditions(maps={name: one[order] for name, one in maps.items()}), CFG(3.0)],
        steps=3,
        seeds=[SEEDS[k] for k in order],
    ).latents
    torch.testing.assert_close(found, together[order], atol=1e-4, rtol=1e-4)


def test_only_the_prompts_branch_has_the_maps(factor, maps, monkeypatch):
    seen = []
    predict = ControlledBackbone.predict
    monkeypatch.setattr(
        ControlledBackbone, "predict", lambda self, x, t, text: seen.append(text["maps"]) or predict(self, x, t, text)
    )
    drawn(factor, Conditions(maps=maps), steps=2)
    expected = stacked(maps, factor.conditions, 3, factor.image_size)
    assert len(seen) == 2
    for found in seen:
        assert torch.equal(found[:3], expected) and (found[3:] == 0).all()


def test_a_missing_map_is_not_a_black_one(factor, maps):
    black = {"depth": torch.zeros_like(maps["depth"])}
    assert not torch.equal(drawn(factor, Conditions(maps=black)), drawn(factor))
    found = stacked({"depth": maps["depth"][:, :, ::2, ::2]}, ("segmentation", "depth"), 3, factor.image_size)
    assert (found[:, :4] == 0).all() and (found[:, 7] == 1).all()
    assert torch.equal(found[:, 4:7, ::2, ::2], maps["depth"][:, :, ::2, ::2])  # a smaller one is enlarged


def test_other_methods_work_inside(factor, maps):
    layouts = [Layout(prompt=prompt, regions=[Region(phrase=prompt, box=(0.1, 0.1, 0.5, 0.5))]) for prompt in PROMPTS]
    processors = {name: m.processor for name, m in factor.denoiser.named_modules() if hasattr(m, "processor")}
    guided = drawn(factor, Conditions(maps=maps), ILGD(layouts=layouts))
    assert (guided - drawn(factor, Conditions(maps=maps))).abs().max() > 1e-3
    after = {name: m.processor for name, m in factor.denoiser.named_modules() if hasattr(m, "processor")}
    assert all(after[name] is one for name, one in processors.items())
    off = drawn(factor, Conditions(maps=maps), ILGD(layouts=layouts, weight=0.0, injection=0.0))
    assert torch.equal(off, drawn(factor, Conditions(maps=maps)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sketch": torch.rand(3, 3, 8, 8)}, "this model reads no 'sketch': give it segmentation or depth"),
        ({"depth": torch.rand(3, 1, 8, 8)}, r"the depth is of shape \(3, 1, 8, 8\): give a tensor \(images, 3"),
        ({"depth": [0.5]}, "the depth is a list: give a tensor"),
        ({"depth": torch.rand(2, 3, 8, 8)}, "there are 2 maps of depth for 3 prompts: give one each"),
        ({"depth": torch.full((3, 3, 8, 8), 255.0)}, r"the depth has values outside \[0, 1\]: divide bytes by 255"),
        ({"depth": torch.full((3, 3, 8, 8), torch.nan)}, "the depth has values outside"),
    ],
)
def test_wrong_maps_are_refused(factor, wrong, words):
    with pytest.raises(ValueError, match=words):
        drawn(factor, Conditions(maps=wrong))


def test_a_model_without_a_controlnet_reads_no_maps(base, maps):
    with pytest.raises(ValueError, match="this model reads no segmentation or depth: load one that does"):
        drawn(base, Conditions(maps=maps))


def test_a_controlnet_of_other_conditions_is_refused(base, control):
    with pytest.raises(ValueError, match="reads 8 channels, depth have 4: name the conditions"):
        ControlledBackbone(base, control(2), ["depth"])


def test_a_factor_is_loaded_by_what_lies_in_its_folder(base, control, maps, tmp_path):
    base.pipe.save_pretrained(tmp_path / "base")
    control(2).save_pretrained(tmp_path / "image")
    with pytest.raises(ValueError, match=f"is no factor: it has neither a model_index.json nor a {READS}"):
        load_factor(tmp_path / "image")
    stated = {"base": str(tmp_path / "base"), "conditions": ["segmentation", "depth"]}
    (tmp_path / "image" / READS).write_text(json.dumps(stated))
    loaded, text = load_factor(tmp_path / "image", "cpu"), load_factor(tmp_path / "base", "cpu")
    assert loaded.conditions == ("segmentation", "depth") and not isinstance(text, ControlledBackbone)
    torch.testing.assert_close(
        drawn(loaded, Conditions(maps=maps)),
        drawn(ControlledBackbone(base, control(2), ["segmentation", "depth"]), Conditions(maps=maps)),
    )
    with pytest.raises(ValueError, match="this backbone names no segmenter"):
        text.guide("segmenter")
