"""Scene graphs: exact on the world's captions, close to a person's on everyday ones, and errors that say what to do."""

import pytest

from helpers.metrics.parsing import f1, hand_written, parser_metrics
from helpers.paths import ROOT
from helpers.perception.scene_graph import parse

EVERYDAY = ROOT / "tests" / "everyday_captions.txt"


@pytest.fixture(scope="module")
def numbers():
    return parser_metrics(EVERYDAY)


def test_held_out_captions_are_read_exactly(numbers):
    assert numbers["exact_short"] >= 0.99 and numbers["exact_long"] >= 0.97


def test_everyday_captions_are_read_as_a_person_does(numbers):
    assert len(list(hand_written(EVERYDAY))) >= 50
    assert numbers["f1_attributes"] >= 0.8 and numbers["f1_relations"] >= 0.8
    both = numbers["f1_attributes"], numbers["f1_relations"]
    assert min(both) <= numbers["f1_open"] <= max(both)


def test_f1_of_known_sets():
    assert f1([({1, 2}, {2, 3}), ({4}, {4})]) == pytest.approx(2 * 2 / 6)
    assert f1([(set(), set())]) == 0


def test_parts_of_a_sentence():
    graph = parse("The car is red and very old, and a woman with long hair is holding its key.")
    assert [(graph.phrase(k), o.noun, o.attributes) for k, o in enumerate(graph.objects)] == [
        ("car", "car", ("red", "old")),
        ("woman", "woman", ()),
        ("long hair", "hair", ("long",)),
        ("key", "key", ()),
    ]
    assert graph.relations == ((1, "with", 2), (1, "holding", 3))


def test_the_definite_article_names_an_earlier_object():
    graph = parse("a red ball and a blue ball. the blue ball is behind a car. the ball is under the car")
    assert [o.noun for o in graph.objects] == ["ball", "ball", "car"]
    assert graph.relations == ((1, "behind", 2), (0, "under", 2))


@pytest.mark.parametrize(
    ("text", "rest"), [("", ""), ("of of of", "of of of"), ("a red car a blue fish", "a blue fish")]
)
def test_what_cannot_be_read_is_named(text, rest):
    with pytest.raises(ValueError, match=f"cannot be read from '{rest}.* on: write noun phrases"):
        parse(text)
