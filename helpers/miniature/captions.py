"""Captions of scenes, short and long, with the character span of every phrase and the scene graph they state.

The graph is the ground truth: `objects` (kind, colour, pattern, size of each), `relations` (subject, word, object).
A caption names every object of its scene, so a model trained on captions has no reason to draw what nobody asked for.
"""

import re
from dataclasses import dataclass, field, replace

import numpy as np

from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import PLACES
from helpers.miniature.world import render


@dataclass(frozen=True)
class Phrase:
    """A noun phrase in a caption: the characters [start, stop) of `text`, about object `thing` of the scene."""

    text: str
    start: int
    stop: int
    thing: int


@dataclass(frozen=True)
class Caption:
    text: str
    phrases: tuple[Phrase, ...]
    relations: tuple[tuple[int, str, int], ...]  # (subject's index, relation, object's index)
    background: str


@dataclass
class _Writer:
    """Builds a caption piece by piece and remembers where each phrase stands."""

    text: str = ""
    phrases: list = field(default_factory=list)

    def add(self, words: str):
        self.text += words

    def name(self, words: str, thing: int):
        self.phrases.append(Phrase(words, len(self.text), len(self.text) + len(words), thing))
        self.text += words


def describe(scene: Scene, i: int, size: bool = False) -> str:
    """The noun phrase of object i without its article: "small striped red car"."""
    thing = scene.things[i]
    words = [thing.size if size else "", "striped" if thing.pattern == "striped" else "", thing.color, thing.kind]
    return " ".join(w for w in words if w)


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


def relation(scene: Scene, i: int, j: int, rng: np.random.Generator) -> str:
    """A true relation of object i to object j; occlusion is named first, then the larger offset of the centres."""
    masks = render(scene).amodal
    if (masks[i] & masks[j]).sum() > 12 and rng.random() < 0.7:
        return "in front of" if i > j else "behind"
    a, b = scene.things[i], scene.things[j]
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def short_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """One sentence: "a red car left of a striped blue fish on grass"."""
    order = [int(i) for i in rng.permutation(len(scene.things))]
    sized = rng.random() < 0.35
    related = len(order) > 1 and rng.random() < (0.7 if len(order) == 2 else 0.4)
    w, relations = _Writer(), []
    for k, i in enumerate(order):
        phrase = describe(scene, i, sized)
        if k == 1 and related:
            word = relation(scene, order[0], i, rng)
            relations.append((order[0], word, i))
            w.add(f" {word} ")
        elif k:
            w.add(" and " if k == len(order) - 1 else ", ")
        w.add(_article(phrase) + " ")
        w.name(phrase, i)
    w.add(f" {PLACES[scene.background]}")
    return Caption(w.text, tuple(w.phrases), tuple(relations), scene.background)


def long_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Every attribute and a chain of relations in two or three sentences.

    "a small red car is left of a large striped blue fish. the blue fish is above a medium yellow star. ..."
    """
    order = [int(i) for i in rng.permutation(len(scene.things))]
    w, relations = _Writer(), []
    first = describe(scene, order[0], size=True)
    w.add(_article(first) + " ")
    w.name(first, order[0])
    if len(order) == 1:
        w.add(" stands alone")
    for a, b in zip(order, order[1:]):
        if relations:
            w.add(". the ")
            w.name(f"{scene.things[a].color} {scene.things[a].kind}", a)
        word = relation(scene, a, b, rng)
        relations.append((a, word, b))
        phrase = describe(scene, b, size=True)
        w.add(f" is {word} {_article(phrase)} ")
        w.name(phrase, b)
    w.add(f". the scene is {PLACES[scene.background]}.")
    return Caption(w.text, tuple(w.phrases), tuple(relations), scene.background)


def shuffled(caption: Caption, rng: np.random.Generator) -> Caption:
    """The same sentences in another order (where there are two, the other one): the text as a stress for parsers."""
    sentences = [(m.start(), m[0]) for m in re.finditer(r"[^.]+", caption.text) if m[0].strip()]
    sentences = [(start + len(s) - len(s.lstrip()), s.strip()) for start, s in sentences]
    order = rng.permutation(len(sentences))
    if len(order) > 1 and (order == np.sort(order)).all():
        order = np.roll(order, 1)
    w = _Writer()
    for start, sentence in (sentences[k] for k in order):
        inside = [p for p in caption.phrases if start <= p.start < start + len(sentence)]
        w.phrases += [
            replace(p, start=len(w.text) + p.start - start, stop=len(w.text) + p.stop - start) for p in inside
        ]
        w.add(sentence + ". ")
    return replace(caption, text=w.text.strip(), phrases=tuple(w.phrases))


def random_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """What training draws: three short captions to one long one."""
    return (long_caption if rng.random() < 0.25 else short_caption)(scene, rng)
