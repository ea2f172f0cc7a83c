"""What prompts say and whether pictures show it: metrics, statements, the two CLIPs."""

import numpy as np
import pytest
import torch
from handmade import found

from helpers.benchmarks.miniature import load_captioned
from helpers.metrics import concepts
from helpers.miniature.vocabulary import RELATIONS
from helpers.paths import weights
from helpers.perception.detector import MaskDetector
from helpers.perception.segmenter import Segmenter
from helpers.perception.similarity import Similarity
from helpers.training import detection, similarity
from helpers.training.held_out import held_out
from helpers.training.similarity import CAPTION, Noun, Statement, encode, ends_of_texts, ends_of_windows, truth

# --- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "true"),
    [("left of", True), ("right of", False), ("above", False), ("below", False), ("in front of", False)],
)
def test_the_larger_offset_decides(word, true):
    assert concepts.holds(word, found("car", "red", 0, 10, 20, 30), found("fish", "blue", 40, 0, 60, 20)) is true


def test_in_front_belongs_to_who_covers_the_shared_part():
    front, back = found("car", "red", 10, 10, 30, 30), found("box", "blue", 20, 20, 44, 44)
    back.mask[front.mask] = False
    assert concepts.holds("in front of", front, back) and not concepts.holds("in front of", back, front)
    assert concepts.holds("behind", back, front) and not concepts.holds("behind", front, back)
    apart = found("box", "blue", 40, 40, 60, 60)
    assert not concepts.holds("behind", apart, front), "what does not touch is not behind"


def test_attributes_and_relations_of_a_picture():
    case = next(c for c in load_captioned("test", "long") if len(c.things) == 2 and c.relations[0][1] == "left of")
    places = [(2, 20, 22, 40), (40, 22, 60, 42)]  # the first thing that is named stands left
    right = [found(t.kind, t.color, *box, pattern=t.pattern) for t, box in zip(case.things, places)]
    assert concepts.score(case, right) == {"attribute_acc": 1.0, "relation_acc": 1.0}
    turned = [found(t.kind, t.color, *box, pattern=t.pattern) for t, box in zip(case.things, places[::-1])]
    assert concepts.score(case, turned) == {"attribute_acc": 1.0, "relation_acc": 0.0}
    other = "plain" if case.things[0].pattern == "striped" else "striped"
    wrong = [found(case.things[0].kind, case.things[0].color, *places[0], pattern=other), right[1]]
    assert concepts.score(case, wrong) == {"attribute_acc": 0.5, "relation_acc": 1.0}
    assert concepts.score(case, right[:1]) == {"attribute_acc": 0.5, "relation_acc": 0.0}
    alone = next(c for c in load_captioned("test", "long") if len(c.things) == 1)
    assert np.isnan(concepts.score(alone, [])["relation_acc"])


# --- what the CLIPs learn from ----------------------------------------------------------------------------------------


RED_CAR, BLUE_FISH = Noun("car", "red"), Noun("fish", "blue", striped=True)


def window():
    """A plain red car on the left of a striped blue fish, and a green ball that is half in."""
    car, fish, ball = (
        [similarity.KINDS.index(k), list(similarity.COLORS).index(c), s, there, x, y]
        for k, c, s, there, x, y in (
            ("car", "red", 0, 2, 10, 30),
            ("fish", "blue", 1, 2, 50, 34),
            ("ball", "green", 0, 1, 30, 5),
        )
    )
    things = torch.tensor([[car, fish, ball, [-1] * 6]])
    pairs = -torch.ones(1, 4, 4, 6, dtype=torch.long)
    pairs[0, 0, 1, RELATIONS.index("left of")] = 1
    pairs[0, 0, 1, RELATIONS.index("above")] = 0
    pairs[0, 1, 0, RELATIONS.index("right of")] = 1
    return things, pairs


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        (Statement(RED_CAR), 1),
        (Statement(Noun("car")), 1),
        (Statement(Noun(color="blue")), 0),  # the fish is striped, which "blue" leaves open
        (Statement(BLUE_FISH), 1),
        (Statement(Noun("fish", "blue")), 0),
        (Statement(Noun("car", "red", striped=True)), -1),
        (Statement(Noun("car", "blue")), -1),
        (Statement(Noun("ball", "green")), 0),
        (Statement(RED_CAR, "left of", BLUE_FISH), 1),
        (Statement(BLUE_FISH, "right of", RED_CAR), 1),
        (Statement(RED_CAR, "above", BLUE_FISH), 0),
        (Statement(RED_CAR, "right of", BLUE_FISH), -1),
        (Statement(BLUE_FISH, "left of", RED_CAR), -1),
        (Statement(caption="a red car left of a striped blue fish"), -1),
    ],
)
def test_which_texts_are_true_of_a_window(statement, state):
    things, pairs = window()
    assert truth(torch.tensor([encode(statement)]), things, pairs).item() == state


def test_what_lies_at_the_ends():
    things, _ = window()
    car, fish = things[0, 0, :2].tolist(), things[0, 1, :2].tolist()
    assert ends_of_windows(things)[0].tolist() == [car, fish, car, fish]
    texts = torch.tensor([encode(s) for s in (Statement(RED_CAR), Statement(RED_CAR, "below", BLUE_FISH))])
    assert ends_of_texts(texts).tolist() == [[car] * 4, [[-1, -1], [-1, -1], fish, car]]
    assert encode(Statement(caption="x"))[-1] == CAPTION


def test_lookalikes_are_said_differently():
    rng = np.random.default_rng(0)
    for noun in (RED_CAR, BLUE_FISH, Noun("car"), Noun(color="red"), Noun(striped=True)):
        said = [s.words() for s in similarity.lookalikes(noun, rng)]
        assert len(said) == similarity.WRONG and noun.words() not in said and all(said)


# --- trained models --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    return held_out(120)


@pytest.mark.parametrize("name", ["clip", "judge-clip"])
def test_a_clip_prefers_true_texts_on_unseen_scenes(name, scenes):
    clip = Similarity.load(weights(name))
    numbers = similarity.evaluate(clip, *scenes)
    assert numbers["top1"] >= 0.9 and numbers["wrong_color"] >= 0.9
    if name == "clip":
        assert numbers["swapped_relation"] >= 0.9


def test_a_clip_refuses_what_it_cannot_read():
    clip = Similarity.load(weights("clip"))
    with pytest.raises(ValueError, match="' ' is empty"):
        clip.embed([" "])
    with pytest.raises(ValueError, match="does not fit into the 16 tokens"):
        clip.embed(["a small striped red car in front of a small striped blue fish left of a ball"])
    with pytest.raises(ValueError, match=r"must be \(B, 3, H, W\)"):
        clip(torch.zeros(3, 64, 64))


def test_a_gradient_reaches_the_picture():
    clip = Similarity.load(weights("clip"))
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (clip(image) @ clip.embed(["red car"]).T).sum().backward()
    assert image.grad.isfinite().all() and image.grad.any()


def test_the_detector_finds_unseen_scenes(scenes):
    detector = MaskDetector(Segmenter.load(weights("guide-segmenter")))
    assert detection.evaluate(detector, *scenes)["ap50"] >= 0.85
