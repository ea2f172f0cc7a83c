"""Keys of a phrase in every encoder's sequence are the tokens that the encoder really reads."""

import json

import pytest
import torch
from tiny_pipelines import clip_tokenizer, tiny_backbone

from helpers.backbones.load import load_backbone
from helpers.backbones.tokens import Tokens
from helpers.paths import ROOT
from helpers.sampling.loop import sample

PROMPT = "a red car and a blue ball on the grass"
PHRASES = ["red car", "blue ball", "grass", "on the"]


def read_by(backbone, encoder, prompt):
    """The ids that an encoder is given while the prompt is encoded."""
    seen, network = [], getattr(backbone.pipe, encoder)
    handle = network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((*args, *kwargs.values())[0]), with_kwargs=True
    )
    backbone.encode_text([prompt])
    handle.remove()
    (ids,) = seen
    return ids[0].tolist()


ENCODERS = [  # model, encoder, tokenizer, first key
    ("sd15", "text_encoder", "tokenizer", 0),
    ("sdxl", "text_encoder", "tokenizer", 0),
    ("sdxl", "text_encoder_2", "tokenizer_2", 0),
    ("sd3", "text_encoder", "tokenizer", 0),
    ("sd3", "text_encoder_2", "tokenizer_2", 0),
    ("sd3", "text_encoder_3", "tokenizer_3", 77),
    ("sd3_without_t5", "text_encoder", "tokenizer", 0),
]


@pytest.mark.parametrize("name, encoder, tokenizer, first", ENCODERS)
def test_keys_are_what_the_encoder_reads(name, encoder, tokenizer, first):
    backbone = tiny_backbone(name)
    ids, words = read_by(backbone, encoder, PROMPT), getattr(backbone.pipe, tokenizer)
    for phrase in PHRASES:
        keys = [key - first for key in backbone.tokens.of(PROMPT, phrase) if first <= key < first + len(ids)]
        assert words.decode([ids[key] for key in keys]).strip() == phrase
        pieces = 1 if tokenizer != "tokenizer_3" else 2
        assert phrase != "grass" or len(keys) == pieces


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "sd3_without_t5"])
def test_keys_are_columns_of_the_text(name):
    """Another word at a phrase's place changes the embedding there; before it nothing (CLIP is causal)."""
    backbone = tiny_backbone(name)
    one, other = backbone.encode_text(["a red car", "a red ball"])["tokens"]
    changed = (one != other).any(-1).nonzero().flatten().tolist()
    keys = backbone.tokens.of("a red car", "car")
    assert set(keys) <= set(changed) and keys[0] == min(changed)
    assert backbone.tokens.total == len(one)


def test_runs_are_one_per_sequence():
    tokens = tiny_backbone("sd3").tokens
    assert tokens.of("a red car on the grass", "grass") == [6, 82, 83]
    assert tokens.runs("a red car on the grass", "grass") == [[6], [82, 83]]
    assert tokens.runs("a red car", "red car") == [[2, 3], [78, 79]]
    assert tiny_backbone("sdxl").tokens.runs("a red car", "red car") == [[2, 3]]
    assert tiny_backbone("sd3_without_t5").tokens.runs("a red car", "red car") == [[2, 3]]
    assert [tiny_backbone(name).tokens.total for name in ("sdxl", "sd3", "sd3_without_t5")] == [77, 333, 333]


def test_trailing_keys_follow_the_last_word():
    tokens = tiny_backbone("sd3").tokens
    assert tokens.trailing("a red car", 3) == [4, 5, 6, 80, 81, 82]  # CLIP has a start token, T5 none
    assert tokens.trailing("a red car", 1000) == [*range(4, 77), *range(80, 333)]
    assert tokens.special() == (0, 76)


def test_a_phrase_that_occurs_twice_needs_its_place():
    tokens = tiny_backbone("sd3").tokens
    with pytest.raises(ValueError, match="occurs 2 times"):
        tokens.of(PROMPT, "a")
    assert tokens.of(PROMPT, "a", 14) == [5, 81]
    with pytest.raises(ValueError, match="'dog' is not in the prompt"):
        tokens.of(PROMPT, "dog")


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_a_prompt_that_any_encoder_would_cut_is_refused(name):
    """CLIP has 75 places for words, T5 255; what one reads whole the other may not."""
    backbone = tiny_backbone(name)
    backbone.encode_text([" ".join(["car"] * 75)])
    with pytest.raises(ValueError, match=r"has 78 tokens .*reads 77: shorten it by at least 1"):
        backbone.encode_text([" ".join(["car"] * 76)])
    with pytest.raises(ValueError, match="shorten it by at least 1"):
        sample(backbone, " ".join(["car"] * 76), steps=1)


def test_a_prompt_that_only_t5_would_cut_is_refused():
    tokens = tiny_backbone("sd3").tokens
    only = Tokens([[], tokens.sequences[1]], tokens.lengths)
    only.check([" ".join(["car"] * 255)])
    with pytest.raises(ValueError, match=r"has 257 tokens .*reads 256"):
        only.check([" ".join(["car"] * 256)])


def test_words_that_a_miniature_has_never_read():
    tokens = load_backbone("mini-sd", device="cpu").tokens
    assert tokens.unread("an astronaut on mars") == ["astronaut", "mars"]
    assert tokens.unread("ein rotes Herz") == ["ein", "rotes", "Herz"]
    captions = json.loads((ROOT / "data" / "captions.json").read_text())
    texts = [
        said["text"] for split in captions.values() for scene in split for said in scene.values() if "text" in said
    ]
    assert len(texts) > 500
    assert {word for text in texts for word in tokens.unread(text)} == set()


def test_a_large_tokenizer_reads_everything():
    tokenizer = clip_tokenizer()
    assert Tokens([[tokenizer]]).unread("an astronaut on a car") == ["an", "astronaut"]
    tokenizer.add_tokens([f"word{n}" for n in range(1000)])
    assert Tokens([[tokenizer]]).unread("an astronaut on a car") == []


def test_words_never_read_reach_the_run():
    run = sample(tiny_backbone("sd21"), ["a red zebra"], steps=1)
    assert [w for w in run.warnings if "has never read the words zebra" in w]
    assert torch.isfinite(run.images).all()
