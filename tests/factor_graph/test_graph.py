"""The graph as data: what can be drawn, in which order, given what."""

import pytest
import torch
from pydantic import ValidationError
from tiny_pipelines import tiny_backbone

from helpers.factor_graph.factor import Conditions, ControlledBackbone
from helpers.factor_graph.graph import Graph, ancestral
from helpers.guidance.cfg import CFG
from helpers.sampling.loop import sample
from helpers.sampling.seeds import derived

CHAIN = {
    "image": {"model": "image", "parents": ["segmentation", "depth"], "picture": True},
    "depth": {"model": "depth", "parents": ["segmentation"]},
    "segmentation": {"model": "text"},
}
PROMPTS, SEEDS = ["a red car", "a blue ball"], [3, 4]


def test_parents_come_first():
    graph = Graph.of(CHAIN)
    assert graph.order() == ["segmentation", "depth", "image"]
    assert graph.needed("depth") == ["segmentation", "depth"] and graph.needed("segmentation") == ["segmentation"]


def test_adding_a_factor_adds_a_node():
    graph = Graph.of(CHAIN | {"sketch": {"model": "text"}})
    assert set(graph.order()) == {*CHAIN, "sketch"} and graph.needed("image") == Graph.of(CHAIN).needed("image")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"segmentation": {"model": "text", "parents": ["depth"]}}, "is a circle: leave out one of these parents"),
        ({"depth": {"model": "depth", "parents": ["depth"]}}, "depth -> depth is a circle"),
        (
            {"depth": {"model": "depth", "parents": ["map"]}},
            "depth is drawn given 'map', which is no factor: use image",
        ),
        ({"depth": {"model": "depth", "parents": ["segmentation"], "picture": True}}, "image and depth are both the"),
        ({"depth": {"model": "depth", "parents": ["image"]}}, "depth is drawn given 'image', which is the picture"),
        ({"depth": {"model": "depth", "parent": ["segmentation"]}}, "Extra inputs are not permitted"),
        ({"depth": {"parents": ["segmentation"]}}, "Field required"),
    ],
)
def test_a_graph_that_cannot_be_drawn_is_refused(changed, words):
    with pytest.raises(ValidationError, match=words):
        Graph.of(CHAIN | changed)


def test_an_unknown_factor_is_named():
    with pytest.raises(ValueError, match="there is no factor 'sketch': use image or depth or segmentation"):
        Graph.of(CHAIN).needed("sketch")


@pytest.fixture(scope="module")
def factors(control):
    text = tiny_backbone("sd21")
    return {
        "text": text,
        "depth": ControlledBackbone(text, control(1), ["segmentation"]),
        "image": ControlledBackbone(text, control(2), ["segmentation", "depth"]),
    }


def guidance(name):
    return [CFG(3.0)]


def test_every_factor_is_drawn_given_clean_parents(factors):
    runs = ancestral(Graph.of(CHAIN), PROMPTS, SEEDS, guidance, steps=2, load=factors.get)
    assert list(runs) == ["segmentation", "depth", "image"]
    first = sample(factors["text"], PROMPTS, [CFG(3.0)], steps=2, seeds=[derived(seed, 1) for seed in SEEDS])
    assert torch.equal(runs["segmentation"].images, first.images)
    maps = {"segmentation": first.images, "depth": runs["depth"].images}
    last = sample(factors["image"], PROMPTS, [Conditions(maps=maps), CFG(3.0)], steps=2, seeds=SEEDS)
    assert torch.equal(runs["image"].images, last.images) and runs["image"].seeds == SEEDS


def test_what_is_given_is_not_drawn(factors):
    given = {"segmentation": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    steps = {"depth": 2, "image": 3}
    runs = ancestral(Graph.of(CHAIN), PROMPTS, SEEDS, guidance, given=given, steps=steps, load=factors.get)
    assert list(runs) == ["depth", "image"] and runs["image"].curves["eff_cfg"].shape == (2, 3)
    maps = [Conditions(maps=given), CFG(3.0)]
    alone = sample(factors["depth"], PROMPTS, maps, steps=2, seeds=[derived(seed, 2) for seed in SEEDS])
    assert torch.equal(runs["depth"].images, alone.images)
    with pytest.raises(ValueError, match="there is no factor 'sketch'"):
        ancestral(Graph.of(CHAIN), PROMPTS, SEEDS, guidance, given={"sketch": given["segmentation"]}, load=factors.get)
