"""Training of two small CLIPs with open_clip's classes: one that guides, one that scores.

They share the objective and nothing else: the guide is a ResNet that sees crops with phrases and relations, also in
reconstructions and in mini-sd's x0_hat; the one that scores is a vision transformer that mostly sees whole pictures
with whole captions, with other seeds and another augmentation.

The world says which other texts of a batch are true of a crop, too ("red car" where "striped red car" was meant); such
pairs are no negatives. Every crop brings texts of its own that are nearly right: another colour, another kind, another
pattern, the relation turned around.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from open_clip.model import set_model_preprocess_cfg
from safetensors.torch import save_file
from torch import nn

from helpers.backbones.backbone import Backbone
from helpers.miniature.captions import long_caption, random_caption
from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import COLORS, KINDS, RELATIONS
from helpers.miniature.world import random_scene, render
from helpers.perception.crops import crop, square, union
from helpers.perception.similarity import Similarity
from helpers.training.autoencoder import through
from helpers.training.estimates import estimates, soften
from helpers.training.loop import SEEDS, Scenes, fit
from helpers.training.mixed_dataset import MixedDataset
from helpers.training.text import tokenizer

WRONG = 3  # nearly right texts of every crop
REACH = 2.0  # length of an adversarial change of a window (its rms is then .018)
LITTLE, MOST = 0.2, 0.7  # share of an object in a crop: less is not there, more is there, between them nothing is said
ANTONYM = dict(zip(RELATIONS, ("right of", "left of", "below", "above", "behind", "in front of")))
GUIDE = {"vision": {"layers": [2, 2, 2, 2], "width": 16}, "text": {"context_length": 16, "width": 96, "layers": 2}}
SCORE = {
    "vision": {"layers": 4, "width": 128, "patch_size": 8, "head_width": 32},
    "text": {"context_length": 77, "width": 128, "layers": 3},
}


def configuration(architecture: dict) -> dict:
    """open_clip's model_cfg of GUIDE or SCORE."""
    text = {"vocab_size": len(tokenizer()), "heads": 4, **architecture["text"]}
    return {"embed_dim": 128, "vision_cfg": {"image_size": 64, **architecture["vision"]}, "text_cfg": text}


def build(seed: int, architecture: dict) -> nn.Module:
    torch.manual_seed(seed)
    model = open_clip.CLIP(**configuration(architecture))
    cfg = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    set_model_preprocess_cfg(model, cfg)
    if hasattr(model.visual, "attnpool"):  # the only place where a ResNet learns positions; they start too small there
        with torch.no_grad():
            model.visual.attnpool.positional_embedding.mul_(15)
    return model


def save(model: nn.Module, architecture: dict, folder: Path) -> None:
    """What open_clip reads from "local-dir:<folder>": configuration, half-precision weights, tokenizer."""
    config = configuration(architecture)
    config["text_cfg"]["hf_tokenizer_name"] = folder.name  # open_clip then takes the tokenizer beside the weights
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}, indent=1) + "\n")
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    tokenizer().save_pretrained(folder)


def reloaded(model: nn.Module, architecture: dict) -> Similarity:
    """The model as a reader of its folder gets it, half-precision weights included."""
    with tempfile.TemporaryDirectory() as folder:
        save(model, architecture, Path(folder))
        return Similarity.load(folder)


# --- texts and what they state ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noun:
    """What a noun phrase states; "" where it says nothing. A window shows no size, so its word never decides."""

    kind: str = ""
    color: str = ""
    striped: bool = False
    size: str = ""

    def words(self) -> str:
        return " ".join(w for w in (self.size, "striped" if self.striped else "", self.color, self.kind) if w)


@dataclass(frozen=True)
class Statement:
    """A noun alone, two nouns in a relation, or a whole caption in its own words (true of its own picture only)."""

    one: Noun = Noun()
    relation: str = ""
    other: Noun = Noun()
    caption: str = ""

    def words(self) -> str:
        return self.caption or f"{self.one.words()} {self.relation} {self.other.words()}".strip()


# One row per statement: kind, colour, striped of both nouns, relation; -1 says nothing, CAPTION is no statement.
CAPTION = len(RELATIONS)


def encode(statement: Statement) -> list[int]:
    def noun(n):
        kind = KINDS.index(n.kind) if n.kind else -1
        return [kind, list(COLORS).index(n.color) if n.color else -1, int(n.striped)]

    relation = RELATIONS.index(statement.relation) if statement.relation else -1
    return [*noun(statement.one), *noun(statement.other), CAPTION if statement.caption else relation]


def nouns(scene: Scene, rng: np.random.Generator) -> list[Noun]:
    """How the objects are named: mostly in full, sometimes by one word ("red", "car", "striped")."""
    named = []
    for thing in scene.things:
        size = thing.size if rng.random() < 0.3 else ""
        full = Noun(thing.kind, thing.color, thing.pattern == "striped", size)
        single = [Noun(kind=full.kind), Noun(color=full.color), *([Noun(striped=True)] if full.striped else [])]
        named.append(single[rng.integers(len(single))] if rng.random() < 0.15 else full)
    return named


def relations(scene: Scene, masks: np.ndarray) -> np.ndarray:
    """(n, n, 6): 1 where the relation of i to j is true, 0 where it can be said (the smaller offset), -1 where not."""
    n = len(scene.things)
    states = -np.ones((n, n, len(RELATIONS)), np.int8)
    for i, a in enumerate(scene.things):
        for j, b in enumerate(scene.things):
            if i == j:
                continue
            dx, dy = a.x - b.x, a.y - b.y
            for word, along, across in (
                ("left of", -dx, dy),
                ("right of", dx, dy),
                ("above", -dy, dx),
                ("below", dy, dx),
            ):
                if along > 0:
                    states[i, j, RELATIONS.index(word)] = int(along >= abs(across))
            shared = (masks[i] & masks[j]).sum()
            for word, order in (("in front of", i > j), ("behind", i < j)):
                if shared and order:
                    states[i, j, RELATIONS.index(word)] = int(shared > 12)
    return states


class View:
    """A scene as image, one window in it, one text that is true there and WRONG that are nearly right.

    kinds: probabilities of a crop of one object, a crop of two with their relation, the whole picture with one object,
    the whole picture with its caption. wide: share of the relations that are shown in the whole picture instead.
    """

    def __init__(self, kinds: tuple[float, float, float, float], context: int, wide: float = 0.0):
        self.kinds, self.context, self.wide, self.tokenizer = np.array(kinds), context, wide, tokenizer()

    def __call__(self, scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
        drawn = render(scene)
        named, states = nouns(scene, rng), relations(scene, drawn.amodal)
        window, right, wrong = self.choose(scene, drawn, named, states, rng)
        texts = [right, *wrong]
        words = [t.words() for t in texts]
        ids = self.tokenizer(words, padding="max_length", max_length=self.context, truncation=True)["input_ids"]
        x0, y0, x1, y1 = window.round().astype(int)
        share = drawn.visible[:, y0:y1, x0:x1].sum((1, 2)) / drawn.visible.sum((1, 2))
        things = -np.ones((4, 6), np.int64)  # kind, colour, striped, how much of it is there, x, y
        pairs = -np.ones((4, 4, len(RELATIONS)), np.int64)
        n = len(scene.things)
        for row, t, s in zip(things, scene.things, share):
            looks = KINDS.index(t.kind), list(COLORS).index(t.color), t.pattern == "striped"
            row[:] = *looks, int(s > LITTLE) + int(s > MOST), t.x, t.y
        pairs[:n, :n] = states
        return {
            "image": drawn.image.transpose(2, 0, 1),
            "window": window.astype(np.float32),
            "ids": np.array(ids),
            "texts": np.array([encode(t) for t in texts]),
            "things": things,
            "pairs": pairs,
        }

    def choose(self, scene, drawn, named, states, rng):
        """(window xyxy, the true Statement, nearly right ones)."""
        n = len(scene.things)
        visible = torch.tensor([_box(m) for m in drawn.visible], dtype=torch.float32)
        kind = rng.choice(4, p=self.kinds)
        i = int(rng.integers(n))
        whole = np.array([0.0, 0.0, 64.0, 64.0])
        if kind == 3:
            return whole, *captions(scene, rng)
        if kind == 1 and n > 1:
            j = int(rng.choice([k for k in range(n) if k != i]))
            holds = [r for r in range(len(RELATIONS)) if states[i, j, r] == 1]
            if holds:
                word = RELATIONS[holds[-1] if rng.random() < 0.7 else int(rng.choice(holds))]
                close = jittered(union(visible[i], visible[j]), rng)
                window = whole if self.wide and rng.random() < self.wide else close
                return window, *related(named[i], word, named[j], rng)
        window = whole if kind == 2 else jittered(visible[i], rng)
        return window, Statement(named[i]), lookalikes(named[i], rng)


def _box(mask):
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]


def jittered(box: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """A detector's window: the box's sides wrong by some pixels, then the square around it."""
    side = float((box[2:] - box[:2]).max())
    off = torch.from_numpy(rng.normal(0, 0.06 * side, 4)).float()
    return square(box + off, 64, 64, margin=float(rng.uniform(1.05, 1.35))).numpy()


def other(names, name: str, rng: np.random.Generator) -> str:
    return str(rng.choice([n for n in names if n != name]))


def lookalikes(noun: Noun, rng: np.random.Generator) -> list[Statement]:
    """Another kind, another colour, another pattern (or, where that would say nothing, another colour)."""
    kind = replace(noun, kind=other(KINDS, noun.kind, rng))
    color = replace(noun, color=other(COLORS, noun.color, rng))
    pattern = replace(noun, striped=not noun.striped)
    return [Statement(kind), Statement(color), Statement(pattern if pattern.words() else color)]


def related(one: Noun, word: str, two: Noun, rng: np.random.Generator) -> tuple[Statement, list[Statement]]:
    """The relation; turned around by the word or by the nouns, said with another word, of a lookalike."""
    true = Statement(one, word, two)
    turned = replace(true, relation=ANTONYM[word]) if rng.random() < 0.5 else Statement(two, word, one)
    beside = replace(true, relation=other(RELATIONS[:4], word, rng))
    wrong = lookalikes(one if rng.random() < 0.5 else two, rng)[int(rng.integers(2))].one
    unlike = replace(true, one=wrong) if rng.random() < 0.5 else replace(true, other=wrong)
    return true, [turned, beside, unlike]


def captions(scene: Scene, rng: np.random.Generator, write_one=random_caption) -> tuple[Statement, list[Statement]]:
    """A caption; the same with another colour, another kind, and its first relation turned around (or a colour)."""
    seed = int(rng.integers(2**32))

    def write(things):
        return write_one(replace(scene, things=tuple(things)), np.random.default_rng(seed)).text

    text = write(scene.things)
    wrong = []
    for change in ("color", "kind", "color"):
        things, i = list(scene.things), int(rng.integers(len(scene.things)))
        names = COLORS if change == "color" else KINDS
        things[i] = replace(things[i], **{change: other(names, getattr(things[i], change), rng)})
        wrong.append(write(things))
    said = [word for word in RELATIONS if word in text]
    if said:
        wrong[2] = text.replace(said[0], ANTONYM[said[0]])
    return Statement(caption=text), [Statement(caption=w) for w in wrong]


# --- the objective ----------------------------------------------------------------------------------------------------


def truth(texts: torch.Tensor, things: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """(crops, texts) of 1, 0, -1: is a text true of a crop, open, or false?

    texts (T, 7) as `encode` writes them; things (C, 4, 6); pairs (C, 4, 4, 6). A phrase without "striped" may mean a
    striped thing; one with it may not mean a plain one. The worst of the parts decides, the best of the objects counts.
    """

    def fits(noun):  # (C, T, 4): how well each thing of the crop is what the noun names
        kind, color, striped = noun.T[:, None, :, None]
        same = ((kind < 0) | (kind == things[:, None, :, 0])) & ((color < 0) | (color == things[:, None, :, 1]))
        pattern = things[:, None, :, 2]
        by_pattern = torch.where(striped == pattern, 1, torch.where(striped == 1, -1, 0))
        return torch.minimum(torch.where(same, by_pattern, -1), things[:, None, :, 3] - 1)

    one, two, relation = fits(texts[:, :3]), fits(texts[:, 3:6]), texts[:, 6]
    alone = one.amax(-1)
    between = pairs[..., relation.clamp(0, CAPTION - 1)].permute(0, 3, 1, 2)  # (C, T, 4, 4)
    both = torch.minimum(torch.minimum(one[..., :, None], two[..., None, :]), between).flatten(2).amax(-1)
    stated = torch.where(relation < 0, alone, both)
    return torch.where(relation == CAPTION, -1, stated)


def contrast(logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018) of rows that own column i: the other true and open pairs are left out."""
    rows = torch.arange(len(logits), device=logits.device)
    states = states.clone()
    states[rows, rows] = -1
    return F.cross_entropy(logits.masked_fill(states >= 0, -1e4), rows)


class Student(nn.Module):
    """A CLIP under a linear head that only speeds up its training: it reads off an embedding, of an image or of a text,
    what lies leftmost, rightmost, topmost and lowest. The contrast alone was blind to that for thousands of steps.
    """

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip, self.ends = clip, nn.Linear(128, 4 * (len(KINDS) + len(COLORS)))


def ends_of_windows(things: torch.Tensor) -> torch.Tensor:
    """(C, 4, 2): kind and colour of what lies leftmost, rightmost, topmost, lowest in a window; -1 for nothing."""
    there = things[..., 3] == 2
    x, y = things[..., 4], things[..., 5]
    chosen = [torch.where(there, value, 1000).argmin(1) for value in (x, -x, y, -y)]
    rows = torch.arange(len(things), device=things.device)
    named = torch.stack([things[rows, k, :2] for k in chosen], 1)
    return torch.where(there.any(1)[:, None, None], named, -1)


def ends_of_texts(texts: torch.Tensor) -> torch.Tensor:
    """(T, 4, 2): the same, as far as a text says it: a noun alone lies at every end."""
    one, two, relation = texts[:, None, :2], texts[:, None, 3:5], texts[:, 6, None, None]
    first = torch.tensor([0, 1, 2, 3], device=texts.device)[:, None] == relation  # left of, right of, above, below
    second = torch.tensor([1, 0, 3, 2], device=texts.device)[:, None] == relation
    related = torch.where(first, one, torch.where(second, two, -1))
    return torch.where(relation == -1, one.expand_as(related), related)


def read_ends(student: Student, embeddings: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    kinds, colors = student.ends(embeddings).float().unflatten(1, (4, -1)).split([len(KINDS), len(COLORS)], -1)
    wrong = [
        F.cross_entropy(logits.flatten(0, 1), ends[..., k].flatten(), ignore_index=-1)
        for k, logits in enumerate((kinds, colors))
    ]
    return wrong[0] + wrong[1]


def hardened(model: nn.Module, windows: torch.Tensor, read: torch.Tensor, states: torch.Tensor, reach: float):
    """The windows, every second one changed so that its own text fits worse: two steps up the contrastive loss.

    reach: length of the change (L2, pixels in [0, 1]) at most. A model that was trained on such pictures has gradients
    that change what is seen in a picture instead of its texture (Ganz & Elad 2023, "CLIPAG").
    """
    change = torch.zeros_like(windows, requires_grad=True)
    for _ in range(2):
        seen = F.normalize(model(windows + change).float())
        (grad,) = torch.autograd.grad(contrast(20 * seen @ read.T, states), change)
        step = 0.6 * reach * F.normalize(grad.flatten(1)).view_as(grad)
        change = (change + step).detach().renorm(2, 0, reach).requires_grad_()
    change = change.detach()
    change[::2] = 0
    return (windows + change).clamp(0, 1)


def loss(change: Callable[[torch.Tensor, torch.Generator], torch.Tensor], reach: float = 0.0):
    """The contrastive loss, both ways, and the head's. change: augments the images; reach: see `hardened`."""

    def objective(student, items, generator):
        model = student.clip
        device = model.logit_scale.device
        items = {key: value.to(device) for key, value in items.items()}
        images = change(items["image"].float() / 255, generator)
        windows = crop(images, items["window"], torch.arange(len(images), device=device), 64)
        statistics = (model.visual.image_mean, model.visual.image_std)
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in statistics)
        read = model.encode_text(items["ids"].transpose(0, 1).flatten(0, 1))
        texts = items["texts"].transpose(0, 1).flatten(0, 1)
        states = truth(texts, items["things"], items["pairs"])
        if reach:
            fixed = F.normalize(read.detach().float())
            windows = hardened(lambda x: model.encode_image((x - mean) / std), windows, fixed, states, reach)
        seen = model.encode_image((windows - mean) / std)
        n = len(images)
        logits = model.logit_scale.exp().clamp(max=100) * F.normalize(seen.float()) @ F.normalize(read.float()).T
        parts = {
            "by_image": contrast(logits, states),
            "by_text": contrast(logits[:, :n].T, states[:, :n].T),
            "ends_seen": read_ends(student, seen, ends_of_windows(items["things"])),
            "ends_read": read_ends(student, read, ends_of_texts(texts)),
        }
        total = sum(parts.values())
        with torch.no_grad():
            rivals = logits.masked_fill(states >= 0, -1e4).amax(1)
            parts["right"] = (logits.diagonal() >= rivals).float().mean()
        return total, parts

    return objective


def tinted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The other augmentation: brightness and contrast of each image a little off, and fine noise."""
    gain, offset = torch.rand((2, len(x), 1, 1, 1), generator=generator).to(x)
    x = (x - 0.5) * (0.8 + 0.4 * gain) + 0.45 + 0.1 * offset
    return (x + 0.03 * torch.randn(x.shape, generator=generator).to(x)).clamp(0, 1)


def train_guide(folder: Path, backbone: Backbone, steps: tuple[int, int], batch: int) -> nn.Module:
    """The CLIP that guides: crops of renders first; then half of them of mini-sd's x0_hat (3,000, made once), half of
    them `hardened`."""
    seed, kinds, context = SEEDS["clip"], (0.25, 0.6, 0.15, 0), GUIDE["text"]["context_length"]
    first = Scenes(seed, View(kinds, context), steps[0] * batch)
    second = Scenes(seed + 100, View(kinds, context, wide=0.3), steps[1] * batch)
    mixed = MixedDataset(second, min(3000, len(second) // 2), lambda x, k: _estimates(backbone, second, x, k))
    student = Student(build(seed, GUIDE))
    student = fit(student, first, loss(soften), folder / "renders", steps[0], batch, lr=2e-3, ema=0.99)
    student = student.requires_grad_(True)
    return fit(student, mixed, loss(soften, REACH), folder / "estimates", steps[1], batch, lr=1e-3, ema=0.99).clip


def _estimates(backbone, fresh, x, first):
    rng = np.random.default_rng([fresh.seed, first])
    scenes = [random_scene(np.random.default_rng([fresh.seed, first + k])) for k in range(len(x))]
    return estimates(backbone, scenes, x, rng.integers(100, 1000, len(x)).tolist(), first)


def train_score(folder: Path, autoencoder: AutoencoderKL, steps: tuple[int, int], batch: int) -> nn.Module:
    """The CLIP that scores: whole pictures with captions first of all, then half of them reconstructions."""
    seed, view = SEEDS["judge_clip"], View((0.2, 0.15, 0.05, 0.6), SCORE["text"]["context_length"])
    first, second = (Scenes(seed + 100 * k, view, n * batch) for k, n in enumerate(steps))
    mixed = MixedDataset(second, min(3000, len(second) // 2), lambda x, _: through(autoencoder, x))
    student = Student(build(seed, SCORE))
    student = fit(student, first, loss(tinted), folder / "renders", steps[0], batch, lr=1.5e-3, ema=0.99)
    student = student.requires_grad_(True)
    return fit(student, mixed, loss(tinted), folder / "mixed", steps[1], batch, lr=5e-4, ema=0.99).clip


# --- held-out numbers -------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(clip: Similarity, scenes: list[Scene], images: torch.Tensor) -> dict[str, float]:
    """The model on images (n, 3, 64, 64) of known scenes, in windows around the true boxes.

    top1: share of phrases whose own crop is the most similar of 64 crops, which show 64 different things.
    wrong_color, swapped_relation: share of crops more similar to the true text than to the one with a random other
    colour, with the opposite relation. hard_negative_acc: the mean of the two.
    """
    rng = np.random.default_rng(0)
    objects, pairs = [], []  # (image, window, true words, wrong words)
    for k, scene in enumerate(scenes):
        drawn = render(scene)
        boxes = torch.tensor([_box(m) for m in drawn.visible], dtype=torch.float32)
        named = [Noun(t.kind, t.color, t.pattern == "striped") for t in scene.things]
        states = relations(scene, drawn.amodal)
        for i, noun in enumerate(named):
            wrong = replace(noun, color=other(COLORS, noun.color, rng)).words()
            objects.append((k, square(boxes[i], 64, 64), noun.words(), wrong))
            for j, r in np.argwhere(states[i] == 1):
                words = [f"{noun.words()} {word} {named[j].words()}" for word in (RELATIONS[r], ANTONYM[RELATIONS[r]])]
                pairs.append((k, square(union(boxes[i], boxes[j]), 64, 64), *words))

    def see(rows):
        of, windows = torch.tensor([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        seen = [clip(crop(images, w, o, clip.side)) for o, w in zip(of.split(100), windows.split(100))]
        true, wrong = (clip.embed([row[column] for row in rows]) for column in (2, 3))
        return torch.cat(seen), true, wrong

    def rejected(rows):
        seen, true, wrong = see(rows)
        return float(((seen * true).sum(1) > (seen * wrong).sum(1)).float().mean())

    seen, true, _ = see(objects)
    right, asked, left = 0, 0, list(range(len(objects)))
    while True:  # groups of 64 objects that all look different
        group: dict[str, int] = {}
        for k in left:
            if len(group) < 64:
                group.setdefault(objects[k][2], k)
        if len(group) < 64:
            break
        chosen = list(group.values())
        left = [k for k in left if k not in set(chosen)]
        right += int(((true[chosen] @ seen[chosen].T).argmax(1) == torch.arange(64)).sum())
        asked += 64
    numbers = {"wrong_color": rejected(objects), "swapped_relation": rejected(pairs)}
    top1 = right / asked if asked else float("nan")
    return {"top1": top1, "hard_negative_acc": sum(numbers.values()) / 2, **numbers}


@torch.no_grad()
def evaluate_captions(clip: Similarity, scenes: list[Scene], images: torch.Tensor) -> dict[str, float]:
    """Whole pictures (n, 3, 64, 64) of known scenes and long captions.

    caption_top1: share of captions whose own picture is the most similar of 100. caption_hard_negative_acc: share of
    pictures more similar to their caption than to each of three that are nearly right.
    """
    rng = np.random.default_rng(0)
    written = [captions(scene, rng, long_caption) for scene in scenes]
    seen = torch.cat([clip(part) for part in images.split(100)])
    true = clip.embed([right.words() for right, _ in written])
    nearly = torch.stack([clip.embed([w.words() for w in wrong]) for _, wrong in written])
    found = [(t @ s.T).argmax(1) == torch.arange(len(s)) for t, s in zip(true.split(100), seen.split(100))]
    margin = (seen * true).sum(1, keepdim=True) - (nearly @ seen[..., None])[..., 0]
    return {
        "caption_top1": float(torch.cat(found).float().mean()),
        "caption_hard_negative_acc": float((margin > 0).float().mean()),
    }
