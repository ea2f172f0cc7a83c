"""Text of the miniature world: a CLIPTokenizer whose vocabulary is the world's words, and a small CLIPTextModel.

The text encoder is pretrained on captions alone before mini-sd trains: at the last token of every noun phrase it learns
to tell the object's kind, colour, pattern, size and where the caption puts it. So the diffusion model starts with
embeddings that bind attributes to nouns; real Stable Diffusion starts from CLIP for the same reason.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from helpers.miniature.captions import random_caption
from helpers.miniature.vocabulary import COLORS, KINDS, PATTERNS, PLACES, RELATIONS, SIDE, SIZES
from helpers.training.loop import SEEDS, Scenes, fit

WORDS = sorted(
    {w for phrase in (*PLACES.values(), *RELATIONS) for w in phrase.split()}
    | {*COLORS, *KINDS, *PATTERNS, *SIZES, "a", "an", "and", "the", "is", "scene", "stands", "alone", "near", "with"}
)
WINDOW = 77


def tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in CLIP's format; every word of the world is one token, other words fall apart into letters."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    alphabet = sorted("abcdefghijklmnopqrstuvwxyz0123456789.,'\"-!?:;()")
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=alphabet, end_of_word_suffix="</w>", min_frequency=1, show_progress=False
    )
    bpe.train_from_iterator([[w] * 50 for w in (*WORDS, *alphabet)], trainer)
    with tempfile.TemporaryDirectory() as folder:
        bpe.model.save(folder)
        merges = (Path(folder) / "merges.txt").read_text().splitlines()[1:]
    symbols = [*alphabet, *(c + "</w>" for c in alphabet)]
    merged = ["".join(m.split()) for m in merges]
    vocabulary = dict.fromkeys([*symbols, *merged, "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)},
        merges=[tuple(m.split()) for m in merges],
        model_max_length=WINDOW,
        pad_token="<|endoftext|>",
    )


def text_model() -> CLIPTextModel:
    words = tokenizer()
    torch.manual_seed(SEEDS["text"])
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        projection_dim=128,
    )
    return CLIPTextModel(config)


class Tagger(nn.Module):
    """The text encoder under linear heads that read the scene graph off it. Only the encoder is kept."""

    LABELS = (KINDS, tuple(COLORS), PATTERNS, tuple(SIZES))

    def __init__(self):
        super().__init__()
        self.encoder = text_model()
        self.tags = nn.Linear(128, sum(map(len, self.LABELS)))  # at a phrase's last token: its object's attributes
        self.offset = nn.Linear(128, 2)  # there too: its place relative to the previously named object
        self.pairs = nn.Linear(128, len(KINDS) * len(COLORS))  # at the end of the text: which objects there are
        self.place = nn.Linear(128, len(PLACES))

    def forward(self, ids):
        states = self.encoder(ids).last_hidden_state
        end = states[torch.arange(len(ids)), ids.argmax(1)]  # the first end-of-text token has the largest id
        return self.tags(states), self.offset(states), self.pairs(end), self.place(end)


class Tags:
    """View of a scene for the tagger: caption ids (77), token labels (77, 4; -1 for none), offsets, pairs, place."""

    def __init__(self):
        self.tokenizer = tokenizer()

    def __call__(self, scene, rng):
        caption = random_caption(scene, rng)
        encoded = self.tokenizer(
            caption.text, padding="max_length", max_length=WINDOW, truncation=True, return_offsets_mapping=True
        )
        labels = np.full((WINDOW, 4), -1)
        offsets = np.full((WINDOW, 2), np.nan, np.float32)
        last = {stop: k for k, (start, stop) in enumerate(encoded["offset_mapping"]) if stop > start}
        before = None
        for phrase in caption.phrases:
            thing, k = scene.things[phrase.thing], last[phrase.stop]
            named = phrase.text.split()
            values = (thing.kind, thing.color, thing.pattern, thing.size)
            known = (True, True, "the" not in caption.text or thing.pattern in named, thing.size in named)
            labels[k] = [names.index(v) if ok else -1 for names, v, ok in zip(Tagger.LABELS, values, known)]
            if before is not None and caption.relations:
                offsets[k] = (thing.x - before.x) / SIDE, (thing.y - before.y) / SIDE
            before = thing
        pairs = np.zeros(len(KINDS) * len(COLORS), np.float32)
        for thing in scene.things:
            pairs[KINDS.index(thing.kind) * len(COLORS) + list(COLORS).index(thing.color)] = 1
        place = list(PLACES).index(scene.background)
        return np.array(encoded["input_ids"]), labels, offsets, pairs, place


def loss(model, batch, generator):
    ids, labels, offsets, pairs, place = (part.to(model.tags.weight.device) for part in batch)
    tags, offset, pair_logits, place_logits = model(ids)
    parts, start = {}, 0
    for name, names, column in zip(("kind", "color", "pattern", "size"), Tagger.LABELS, labels.unbind(-1)):
        logits = tags[..., start : start + len(names)].flatten(0, 1)
        parts[name] = F.cross_entropy(logits, column.flatten(), ignore_index=-1)
        start += len(names)
    known = ~offsets[..., 0].isnan()
    parts["offset"] = F.mse_loss(offset[known], offsets[known])
    parts["pairs"] = 10 * F.binary_cross_entropy_with_logits(pair_logits, pairs)
    parts["place"] = F.cross_entropy(place_logits, place)
    return sum(parts.values()), parts


def train(folder: Path, steps: int, batch: int, lr: float) -> CLIPTextModel:
    data = Scenes(SEEDS["text"], Tags(), length=steps * batch)
    return fit(Tagger(), data, loss, folder, steps, batch, lr, ema=0.99).encoder
