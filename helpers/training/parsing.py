"""How well `helpers.perception.scene_graph.parse` reads prompts: the world's held-out captions, and everyday ones."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from helpers.benchmarks.miniature import load_scenes, scene_of
from helpers.miniature.vocabulary import PLACES
from helpers.perception.scene_graph import parse

Facts = tuple[set, set]  # {(noun, attribute)}, {(noun, words, noun)}; nouns are the phrases' last words


def parser_metrics(everyday: Path) -> dict[str, float]:
    """exact_short, exact_long: share of the held-out captions whose whole graph is read, objects, spans, relations and
    place. f1_attributes, f1_relations, f1_open (both together): on the captions of `everyday`, see `hand_written`.
    """
    pairs = [(facts(text), wanted) for text, wanted in hand_written(everyday)]
    attributes, relations = ([(found[k], wanted[k]) for found, wanted in pairs] for k in (0, 1))
    return {
        **{f"exact_{kind}": exact(kind) for kind in ("short", "long")},
        "f1_attributes": f1(attributes),
        "f1_relations": f1(relations),
        "f1_open": f1(attributes + relations),
    }


def exact(kind: str) -> float:
    """Share of the held-out scenes' captions ("short" or "long") that are read as they were meant."""
    arrays, captions = load_scenes()
    right = [read(c[kind]["text"]) == meant(c[kind], scene_of(arrays, i).background) for i, c in enumerate(captions)]
    return sum(right) / len(right)


def meant(caption: dict, background: str) -> tuple:
    """What a stored caption says: its objects in order of mention (noun, attributes, span), relations and place."""
    first = {}
    for phrase in caption["phrases"]:
        first.setdefault(phrase["thing"], phrase)
    order = sorted(first, key=lambda thing: first[thing]["start"])
    objects = []
    for phrase in (first[thing] for thing in order):
        *attributes, noun = phrase["text"].split()
        objects.append((noun, tuple(attributes), phrase["start"], phrase["stop"]))
    relations = [(order.index(a), word, order.index(b)) for a, word, b in caption["relations"]]
    return objects, relations, PLACES[background]


def read(text: str) -> tuple:
    """What the parser makes of it, in the form of `meant`."""
    graph = parse(text)
    return [(o.noun, o.attributes, o.start, o.stop) for o in graph.objects], list(graph.relations), graph.place


def hand_written(path: Path) -> Iterator[tuple[str, Facts]]:
    """Lines "caption | adjective noun; ... | noun > words > noun; ..."; those that begin with # are remarks."""
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            text, objects, relations = (part.strip() for part in line.split("|"))
            names = [name.split() for name in objects.split(";")]
            triples = [[part.strip() for part in r.split(">")] for r in relations.split(";") if r.strip()]
            heads = {(a.split()[-1], words, b.split()[-1]) for a, words, b in triples}
            yield text, ({(name[-1], word) for name in names for word in name[:-1]}, heads)


def facts(text: str) -> Facts:
    """What the parser makes of it, in the form of `hand_written`."""
    graph = parse(text)
    names = [(*o.noun.split()[:-1], *o.attributes, o.noun.split()[-1]) for o in graph.objects]
    attributes = {(name[-1], word) for name in names for word in name[:-1]}
    return attributes, {(names[a][-1], words, names[b][-1]) for a, words, b in graph.relations}


def f1(pairs: Iterable[tuple[set, set]]) -> float:
    """2 |found & wanted| / (|found| + |wanted|) of (found, wanted) sets, all texts together; 0 where all are empty."""
    pairs = list(pairs)
    hits = sum(len(found & wanted) for found, wanted in pairs)
    return 2 * hits / max(sum(len(found) + len(wanted) for found, wanted in pairs), 1)
