"""Scene graphs: exact on the world's captions, close to a person's on everyday ones, and errors that say what to do."""

import pytest

from helpers.miniature.benchmark import load_scenes, scene_of
from helpers.miniature.captions import PLACES
from helpers.paths import ROOT
from helpers.perception.scene_graph import parse


def stated(caption, background):
    """What a stored caption says, in the parser's form."""
    first = {}
    for phrase in caption["phrases"]:
        first.setdefault(phrase["thing"], phrase)
    order = sorted(first, key=lambda thing: first[thing]["start"])
    words = [first[thing]["text"].split() for thing in order]
    objects = [
        (w[-1], tuple(w[:-1]), first[thing]["start"], first[thing]["stop"])
        for w, thing in zip(words, order, strict=True)
    ]
    relations = [(order.index(a), word, order.index(b)) for a, word, b in caption["relations"]]
    return objects, relations, PLACES[background]


def read(text):
    graph = parse(text)
    return [(o.noun, o.attributes, o.start, o.stop) for o in graph.objects], list(graph.relations), graph.place


@pytest.mark.parametrize(("kind", "bar"), [("short", 0.99), ("long", 0.97)])
def test_held_out_captions_are_read_exactly(kind, bar):
    arrays, captions = load_scenes()
    right = [read(c[kind]["text"]) == stated(c[kind], scene_of(arrays, i).background) for i, c in enumerate(captions)]
    assert sum(right) / len(right) >= bar


def f1(pairs):
    """Of (found, wanted) sets, all texts together."""
    hits = sum(len(found & wanted) for found, wanted in pairs)
    return 2 * hits / sum(len(found) + len(wanted) for found, wanted in pairs)


def everyday():
    """(text, {(noun, attribute)}, {(noun, words, noun)}) of every hand-written caption."""
    for line in (ROOT / "tests" / "everyday_captions.txt").read_text().splitlines():
        if not line.startswith("#"):
            text, objects, relations = (part.strip() for part in line.split("|"))
            names = [o.split() for o in objects.split(";")]
            triples = [[part.strip() for part in r.split(">")] for r in relations.split(";") if r.strip()]
            heads = {(a.split()[-1], words, b.split()[-1]) for a, words, b in triples}
            yield text, {(name[-1], word) for name in names for word in name[:-1]}, heads


def found_in(text):
    graph = parse(text)
    names = [(*o.noun.split()[:-1], *o.attributes, o.noun.split()[-1]) for o in graph.objects]
    attributes = {(name[-1], word) for name in names for word in name[:-1]}
    return attributes, {(names[a][-1], words, names[b][-1]) for a, words, b in graph.relations}


def test_everyday_captions_are_read_as_a_person_does():
    cases = [(found_in(text), attributes, relations) for text, attributes, relations in everyday()]
    assert len(cases) >= 50
    assert f1([(found[0], attributes) for found, attributes, _ in cases]) >= 0.8
    assert f1([(found[1], relations) for found, _, relations in cases]) >= 0.8


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
