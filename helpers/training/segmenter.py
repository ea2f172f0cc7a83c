"""Training of the guide segmenter: a tiny CLIPSeg on renders, reconstructions and noisy images like x0_hat.

A phrase asks for a kind, mostly with a colour; the words for pattern and size help to name an object but never decide
(the pair of kind and colour is unique in a scene), so a wrong size does not erase the mask that guidance pulls on.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPSegConfig

from helpers.backbones.backbone import Backbone
from helpers.miniature.captions import describe
from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import COLORS, KINDS, PATTERNS, SIDE, SIZES
from helpers.miniature.world import random_scene, render
from helpers.perception.segmenter import Segmenter, StemmedCLIPSeg, decode, vision_states
from helpers.training.estimates import disturbed, estimates, soften
from helpers.training.loop import SEEDS, Scenes, fit
from helpers.training.mixed_dataset import MixedDataset
from helpers.training.text import tokenizer

PHRASES = 5  # phrases per image: its objects, then things that are not there
TOKENS = 8  # start, size, pattern, colour, kind, end, and two to spare
NONE = 255


def build() -> StemmedCLIPSeg:
    words = tokenizer()
    torch.manual_seed(SEEDS["guide_segmenter"])
    special = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = CLIPSegConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 77,
            **special,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": 4,
        },
        projection_dim=64,
        extract_layers=[0, 2],
        reduce_dim=64,
        decoder_num_attention_heads=1,
        decoder_intermediate_size=128,
        attn_implementation="eager",
    )
    return StemmedCLIPSeg(config)


class Student(nn.Module):
    """The guide under two heads that only speed up its training: kind and colour of every pixel, linear in the last
    hidden state, and CLIP's own alignment of image and text, here for every patch."""

    def __init__(self):
        super().__init__()
        self.guide = build()
        self.head = nn.Linear(128, 16 * (1 + len(KINDS) + len(COLORS)))
        self.sharpness = nn.Parameter(torch.tensor([1.0, -2.0]))

    def see(self, images):
        """images (B, 3, 64, 64) in [0, 1] -> hidden states, dense logits (B, 18, 64, 64)."""
        states = vision_states(self.guide, images)
        dense = self.head(states[-1][:, 1:]).transpose(1, 2).unflatten(2, (16, 16))
        return states, F.pixel_shuffle(dense, 4)

    def read(self, ids):
        """ids (B, n, TOKENS) -> text embeddings (B, n, 64); every distinct phrase is encoded once."""
        unique, back = ids.flatten(0, 1).unique(dim=0, return_inverse=True)
        return self.guide.clip.get_text_features(unique).pooler_output[back].unflatten(0, ids.shape[:2])

    def matches(self, states, text):
        """Logits (B, n, 16, 16): does the patch show the phrase? A scaled product of their embeddings."""
        patches = self.guide.clip.visual_projection(states[-1][:, 1:])
        scale, bias = self.sharpness
        return (text @ patches.transpose(1, 2) / 8 * scale + bias).unflatten(2, (16, 16))

    @torch.no_grad()
    def start_decoder(self):
        """Begin where the alignment ended: the decoder turns the product of patch and text into the mask's logits.

        Its layer norms remove the mean over channels, so the sum of the product is written along a vector of
        alternating signs, which has none.
        """
        decoder, sign = self.guide.decoder, torch.tensor([1.0, -1.0]).repeat(32)
        decoder.reduces[0].weight.copy_(self.guide.clip.visual_projection.weight)
        decoder.film_mul.weight.copy_(sign.diag())
        for layer in (decoder.reduces[0].bias, decoder.film_mul.bias, decoder.film_add.weight, decoder.film_add.bias):
            layer.zero_()
        quiet = [decoder.reduces[1], *(part for x in decoder.layers for part in (x.self_attn.out_proj, x.mlp.fc2))]
        for layer in quiet:
            layer.weight *= 0.1
            layer.bias.zero_()
        decoder.transposed_convolution.weight.copy_(0.3 * sign[:, None, None, None].expand(-1, -1, 4, 4))
        decoder.transposed_convolution.bias.zero_()
        return self


def name(rng: np.random.Generator, kind: str, color: str, pattern: str, size: str) -> str:
    """A noun phrase as captions write it; sometimes without its colour, its pattern or with any size."""
    words = [size] if rng.random() < 0.3 else []
    words += ["striped"] if pattern == "striped" and rng.random() < 0.85 else []
    return " ".join([*words, *([color] if color else []), kind])


class View:
    """A scene as image (3, 64, 64), phrase ids (PHRASES, TOKENS), masks (PHRASES, 64, 64), kind and color maps."""

    def __init__(self):
        self.tokenizer = tokenizer()

    def phrases(self, scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, str, str]]:
        """(kind, colour or "", pattern, size) of every object in random order, then of absent things."""
        things = [scene.things[i] for i in rng.permutation(len(scene.things))]
        asked = [(t.kind, t.color if rng.random() < 0.85 else "", t.pattern, t.size) for t in things]
        there = {(t.kind, t.color) for t in things}
        kinds = {t.kind for t in things}
        while len(asked) < PHRASES:
            like = things[rng.integers(len(things))]
            kind = like.kind if rng.random() < 0.5 else str(rng.choice(KINDS))
            color = like.color if kind != like.kind and rng.random() < 0.5 else str(rng.choice(list(COLORS)))
            color = "" if kind not in kinds and rng.random() < 0.15 else color
            if (kind, color) not in there:
                asked.append((kind, color, PATTERNS[int(rng.random() < 0.3)], str(rng.choice(list(SIZES)))))
        return asked

    def __call__(self, scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
        drawn = render(scene)
        kind, color = np.zeros((SIDE, SIDE), np.uint8), np.full((SIDE, SIDE), NONE, np.uint8)
        for thing, mask in zip(scene.things, drawn.visible):
            kind[mask] = 1 + KINDS.index(thing.kind)
            color[mask] = list(COLORS).index(thing.color)
        asked = self.phrases(scene, rng)
        masks = np.zeros((PHRASES, SIDE, SIDE), bool)
        for row, (k, c, _, _) in zip(masks, asked):
            for thing, visible in zip(scene.things, drawn.visible):
                row |= visible & (thing.kind == k and c in ("", thing.color))
        texts = [name(rng, *phrase) for phrase in asked]
        ids = self.tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True)["input_ids"]
        image = drawn.image.transpose(2, 0, 1)
        return {"image": image, "ids": np.array(ids), "masks": masks, "kind": kind, "color": color}


def criterion(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy plus, where the object is there, one minus the soft IoU."""
    bce = F.binary_cross_entropy_with_logits(logits, masks)
    p = logits.sigmoid()
    both = (p * masks).sum((2, 3))
    iou = both / (p.sum((2, 3)) + masks.sum((2, 3)) - both).clamp(min=1)
    there = masks.flatten(2).any(2)
    return 4 * bce + 0.5 * (1 - iou[there]).mean()


def dense_loss(model, items, generator):
    """The vision encoder alone: kind and colour of every pixel."""
    return _loss(model, items, generator)[1:]


def alignment_loss(model, items, generator):
    """Vision and text: which patches show the phrase, and the dense loss."""
    states, dense, parts = _loss(model, items, generator)
    masks = F.avg_pool2d(items["masks"].to(model.guide.device).float(), 4)
    logits = model.matches(states, model.read(items["ids"].to(model.guide.device))).float()
    parts["matches"] = criterion(logits, masks)
    parts["iou"] = overlap(logits, masks > 0.5)
    return parts["matches"] + dense, parts


def loss(model, items, generator):
    """Masks of the phrases, and the dense loss."""
    states, dense, parts = _loss(model, items, generator)
    masks = items["masks"].to(model.guide.device)
    logits = decode(model.guide, states, model.read(items["ids"].to(model.guide.device))).float()
    parts["masks"] = criterion(logits, masks.float())
    parts["iou"] = overlap(logits, masks)
    parts["false_pixels"] = (logits > 0).sum((2, 3))[~masks.flatten(2).any(2)].float().mean()
    return parts["masks"] + dense, parts


def overlap(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean IoU of the phrases that are there."""
    on, there = logits > 0, masks.flatten(2).any(2)
    both, either = (on & masks).sum((2, 3)), (on | masks).sum((2, 3))
    return (both / either.clamp(min=1))[there].mean()


def _loss(model, items, generator):
    items = {key: items[key].to(model.guide.device) for key in ("image", "kind", "color")}
    states, dense = model.see(soften(items["image"].float() / 255, generator))
    kind, color = dense.float().split([1 + len(KINDS), len(COLORS)], 1)
    weight = 1 + 2 * (items["kind"] > 0).float()
    wrong = F.cross_entropy(kind, items["kind"].long(), reduction="none")
    parts = {
        "kind": (wrong * weight).sum() / weight.sum(),
        "color": F.cross_entropy(color, items["color"].long(), ignore_index=NONE),
    }
    with torch.no_grad():
        parts["pixels_right"] = (kind.argmax(1) == items["kind"])[items["kind"] > 0].float().mean()
    return states, 2 * parts["kind"] + 0.5 * parts["color"], parts


def train(folder: Path, autoencoder: AutoencoderKL, steps=(500, 250, 400, 200), batch: int = 24) -> Student:
    """Four runs: vision alone; vision and text; masks; masks, half of them of disturbed latents (see `disturbed`)."""

    def scenes(k):
        return Scenes(SEEDS["guide_segmenter"] + 100 * k, View(), steps[k] * batch)

    def run(name, student, data, objective, lr):
        steps = len(data) // batch
        return fit(student.requires_grad_(True), data, objective, folder / name, steps, batch, lr, ema=0.98)

    student = run("dense", Student(), scenes(0), dense_loss, 3e-3)
    student = run("aligned", student, scenes(1), alignment_loss, 2e-3)
    student = run("masks", student.start_decoder(), scenes(2), loss, 1e-3)
    fresh = scenes(3)
    mixed = MixedDataset(fresh, min(1000, len(fresh) // 2), lambda x, first: disturbed(autoencoder, x, first))
    return run("mixed", student, mixed, loss, 5e-4)


def finetune(folder: Path, student: Student, backbone: Backbone, steps: int = 400, batch: int = 24) -> Student:
    """Another run, half of whose images are mini-sd's x0_hat at random timesteps (3,000, made once)."""
    fresh = Scenes(SEEDS["guide_segmenter"] + 400, View(), steps * batch)

    def change(x, first):
        rng = np.random.default_rng([SEEDS["guide_segmenter"], first])
        scenes = [random_scene(np.random.default_rng([fresh.seed, first + k])) for k in range(len(x))]
        return estimates(backbone, scenes, x, rng.integers(100, 1000, len(x)).tolist(), first)

    mixed = MixedDataset(fresh, min(3000, len(fresh) // 2), change)
    return fit(student.requires_grad_(True), mixed, loss, folder, steps, batch, lr=5e-4, ema=0.99)


# --- held-out numbers -------------------------------------------------------------------------------------------------


def evaluate(segmenter: Segmenter, scenes: list[Scene], images: torch.Tensor) -> dict[str, float]:
    """The guide on images (n, 3, 64, 64) of known scenes, with hard masks (logit > 0).

    mask_iou: mean over objects, each asked for by its own phrase, against its visible silhouette. false_alarms: share
    of phrases for absent things (a wrong colour of a kind that is there, a random pair) that mark 40 pixels or more.
    """
    rng = np.random.default_rng(0)
    ious, alarms = [], []
    for scene, image in zip(scenes, images):
        there = {(t.kind, t.color) for t in scene.things}
        kind = scene.things[0].kind
        absent = [(kind, c) for c in COLORS if (kind, c) not in there][rng.integers(3)]
        other = (str(rng.choice([k for k in KINDS if k != kind])), str(rng.choice(list(COLORS))))
        asked = [absent, *([other] if other not in there else [])]
        phrases = [describe(scene, i) for i in range(len(scene.things))] + [f"{c} {k}" for k, c in asked]
        with torch.no_grad():
            on = (segmenter(image[None], segmenter.embed(phrases))[0] > 0).cpu().numpy()
        for mask, truth in zip(on, render(scene).visible):
            ious.append((mask & truth).sum() / max((mask | truth).sum(), 1))
        alarms += [bool(mask.sum() >= 40) for mask in on[len(scene.things) :]]
    return {"mask_iou": float(np.mean(ious)), "false_alarms": float(np.mean(alarms))}
