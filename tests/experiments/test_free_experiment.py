"""Cases of `free`: what they are given, and that those with cores differ from the others by nothing else."""

import re

import pytest
import torch

from helpers.benchmarks.miniature_free import load_free
from helpers.experiments import free as experiment
from helpers.experiments import layout
from helpers.experiments.free import guidance_of
from helpers.params import load
from helpers.reports.free import PLAIN
from helpers.sampling.loop import sample
from helpers.training.text import WORDS

PARAMS = load(experiment.Experiment, "smoke")
CASES = PARAMS.experiment.cases
SCENES = load_free("test")[:2]
CORES = {"elongation", "largest"}


def told(name):
    return [(method.name, method.settings()) for method in guidance_of(PARAMS, PARAMS.case(name), SCENES, "segmenter")]


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_given_the_boxes_alone(name):
    _, *methods = guidance_of(PARAMS, PARAMS.case(name), SCENES, "segmenter")
    assert bool(methods) == (name != "none")
    for method in methods:
        assert method.layouts == [scene.layout.boxes_only() for scene in SCENES]


@pytest.mark.parametrize(("cores", "boxes"), PLAIN.items())
def test_cores_are_all_that_differs(cores, boxes):
    *others, (_, ours) = told(cores)
    *same, (_, theirs) = told(boxes)
    assert others == same and set(ours) - set(theirs) == CORES
    assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize("name", sorted(set(CASES) - {"none", *PLAIN}))
def test_no_method_has_settings_that_the_search_on_tight_boxes_did_not_try(name):
    searched = load(layout.Experiment, "smoke")
    case, tried = searched.case(name), searched.experiment.search[name]
    made = [guidance_of(searched, case.stating(**settings), SCENES, "segmenter") for settings in tried]
    assert told(name) in [[(method.name, method.settings()) for method in methods] for methods in made]


def test_every_case_is_drawn_on_the_same_layouts():
    assert len({PARAMS.count(case) for case in CASES.values()}) == 1


def test_mini_sd_knows_the_words_of_every_prompt():
    words = {word for split in ("dev", "test") for case in load_free(split) for word in re.findall(r"\w+", case.prompt)}
    assert words <= set(WORDS)


@pytest.mark.parametrize("name", ["dga", "dga_free"])
def test_free_boxes_are_drawn(mini, segmenter, name):
    scene = SCENES[1]
    case = PARAMS.case(name).stating(recurrence={"times": 1})
    guided = sample(mini, scene.prompt, guidance_of(PARAMS, case, [scene], segmenter), steps=3, seeds=[scene.seed])
    plain = guidance_of(PARAMS, PARAMS.case("none"), [scene], None)
    assert not guided.warnings
    assert not torch.equal(guided.images, sample(mini, scene.prompt, plain, steps=3, seeds=[scene.seed]).images)
