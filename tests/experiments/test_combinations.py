"""Which methods a combination adds up, each set as in its own experiment, and where its pictures come from."""

import pytest

from helpers.benchmarks.miniature_combined import load_combined
from helpers.experiments import dca, dga, dma
from helpers.experiments.combinations import Experiment, Modules, guidance_of, sourced
from helpers.params import load
from helpers.sampling.hooks import Recurrence, Window
from helpers.sampling.strength import Raw

PARAMS = load(Experiment, "smoke")
OWN = {of.Experiment.block: load(of.Experiment, "smoke") for of in (dca, dga, dma)}
DEV = load_combined("dev")

METHODS = {
    "none": ["cfg"],
    "source": ["dma"],
    "text": ["cfg", "dca"],
    "layout": ["cfg", "dga"],
    "drag": ["dma"],
    "text_layout": ["cfg", "dca", "dga"],
    "text_drag": ["dca", "dma"],
    "layout_drag": ["dga", "dma"],
    "text_layout_drag": ["dca", "dga", "dma"],
}
PAPER = {"dca": 60.0, "dga": 25.0, "dma": 90.0}
CONCEPTS, MOTION = dca.Nets("clip", "detector", "masks"), dma.Nets("raft", "sam", "dino")
MODULES = Modules(OWN["dca"], OWN["dga"], OWN["dma"], CONCEPTS, "segmenter", MOTION)


def methods(name, scenes=DEV[:2]):
    return {method.name: method for method in guidance_of(PARAMS.case(name), scenes, MODULES)}


@pytest.mark.parametrize("name", PARAMS.experiment.cases)
def test_a_case_has_its_methods_in_order_and_cfg_only_without_a_source(name):
    assert list(methods(name)) == METHODS[name.removesuffix("_paper")]


@pytest.mark.parametrize("name", [name for name in PARAMS.experiment.cases if name.endswith("_paper")])
def test_with_the_papers_weights_losses_are_added_as_they_are(name):
    acting = {key: method for key, method in methods(name).items() if key != "cfg"}
    assert {key: method.weight for key, method in acting.items()} == {key: PAPER[key] for key in acting}
    (strength,) = {m.strength for m in acting.values()}
    assert (strength.scale, strength.clip, type(strength)) == (1.0, None, Raw) and strength.group, (
        "one gradient for all"
    )
    assert all(m.recurrence == Recurrence() for m in acting.values())
    assert all(m.window == alone(key).window for key, m in acting.items())


def alone(key):
    """The method as in the case full of its own experiment."""
    own = OWN[key]
    make = {
        "dca": lambda: dca.guidance_of(own, own.case("full"), [case.scene for case in DEV[:2]], CONCEPTS),
        "dga": lambda: dga.guidance_of(own, own.case("full"), [case.scene for case in DEV[:2]], "segmenter"),
        "dma": lambda: dma.guidance_of(own, own.case("full"), [case.drag for case in DEV[:2]], MOTION),
    }
    return make[key]()[-1]


def test_with_the_papers_weights_the_text_has_no_loss_that_the_paper_has_not():
    assert methods("text")["dca"].presence_weight > 0 == methods("text_paper")["dca"].presence_weight


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("none", "source")])
def test_tuned_methods_keep_the_rules_of_their_experiments(name):
    acting = {key: method for key, method in methods(name).items() if key != "cfg"}
    for key, method in acting.items():
        assert method.settings() == alone(key).settings() and method.weight == PAPER[key]
    assert not any(method.strength.group for method in acting.values()), "each has a gradient of its own"


def test_every_method_is_asked_for_the_edited_scene_and_looks_through_its_own_nets():
    made = methods("text_layout_drag")
    assert (made["dca"].similarity, made["dca"].detector) == ("clip", "detector")
    assert made["dga"].segmenter == "segmenter"
    assert made["dga"].layouts == [case.scene.layout.boxes_only() for case in DEV[:2]]
    assert (made["dma"].flow, made["dma"].clicks.clicks, made["dma"].features) == ("raft", "sam", "dino")
    assert made["dma"].drags == [case.drag.drag for case in DEV[:2]]


def test_the_source_is_drawn_again_by_a_method_that_never_acts():
    (drawn_again,) = methods("source").values()
    assert drawn_again.window == drawn_again.blend == Window(0, 0)
    acting = methods("drag")["dma"]
    assert acting.window.stop > 0 and acting.blend == Window(0, 1)


@pytest.mark.parametrize("name", PARAMS.experiment.cases)
def test_pictures_are_made_of_a_source_wherever_something_is_dragged(name):
    assert sourced(PARAMS.case(name)) == ("dma" in methods(name))
