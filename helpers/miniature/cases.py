"""Draws the benchmark's data: cases (dev, test, many), their captions, and 1,000 held-out scenes, into data/.

`python -m helpers.miniature.cases` writes the folder, which data.dvc tracks; `helpers.benchmarks.miniature` reads it.
Everything follows from fixed seeds.
"""

import json
from pathlib import Path

import numpy as np

from helpers.miniature.captions import long_caption, short_caption, shuffled
from helpers.miniature.items import Case
from helpers.miniature.layouts import layout_case
from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import BACKGROUNDS, FIELDS, SIDE
from helpers.miniature.world import random_scene, render
from helpers.paths import DATA

SEED = 7_000
SPLITS = {  # objects per scene, one count after the other
    "dev": [1, 2, 3, 4] * 16,
    "test": [1, 2, 3, 4] * 50,
    "many": [5, 6] * 16,
}
SCENES = 1_000


def case_scene(split: str, number: int, n: int) -> tuple[Scene, np.random.Generator]:
    """The scene of case `number` of a split, with n objects; every fourth shows a composition held out in training."""
    rng = np.random.default_rng([SEED, list(SPLITS).index(split), number])
    return random_scene(rng, n, held_out=number // 4 % 4 == 3), rng


def make_case(split: str, number: int, n: int) -> Case:
    """Case `number` under its short caption; an object of a case shows at least 60 %."""
    scene, rng = case_scene(split, number, n)
    seed = SEED * 10 + 1_000 * list(SPLITS).index(split) + number
    return layout_case(scene, short_caption(scene, rng), f"{split}-{number:03d}", seed)


def make_captions(split: str, number: int, n: int) -> dict[str, dict]:
    """What can be said about the scene of a case: "short" (the case's prompt), "long", and "shuffled": the sentences
    of the long one in another order.

    Each is {"text", "phrases": (words, start, thing) in the order of the text, "relations"}; a thing is its position in
    the case's `things`, the order of the short caption.
    """
    scene, rng = case_scene(split, number, n)
    short, long = short_caption(scene, rng), long_caption(scene, rng)
    place = {phrase.thing: k for k, phrase in enumerate(short.phrases)}
    written = {}
    for name, caption in (("short", short), ("long", long), ("shuffled", shuffled(long, rng))):
        phrases = [(p.text, p.start, place[p.thing]) for p in sorted(caption.phrases, key=lambda p: p.start)]
        relations = [(place[i], words, place[j]) for i, words, j in caption.relations]
        written[name] = {"text": caption.text, "phrases": phrases, "relations": relations}
    return written


def held_out_scene(i: int) -> tuple[Scene, np.random.Generator]:
    """Held-out scene i: 1, 2, 3, 4 objects in turn; scenes 800 to 999 show held-out compositions, the others none."""
    rng = np.random.default_rng([SEED + 1, i])
    return random_scene(rng, i % 4 + 1, held_out=i >= SCENES * 4 // 5), rng


def write(folder: Path = DATA) -> None:
    """Write layouts.json, captions.json, scenes.npz, scenes.json and the data card."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = {split: [make_case(split, i, n) for i, n in enumerate(counts)] for split, counts in SPLITS.items()}
    no_text = {"relations"}  # captions.json has them
    dumped = {split: [case.model_dump(mode="json", exclude=no_text) for case in part] for split, part in cases.items()}
    (folder / "layouts.json").write_text(json.dumps(dumped, indent=1))
    said = {split: [make_captions(split, i, n) for i, n in enumerate(counts)] for split, counts in SPLITS.items()}
    (folder / "captions.json").write_text(json.dumps(said))
    arrays = {name: np.full((SCENES, 4), -1, np.int16) for name in (*FIELDS, "side", "x", "y")}
    arrays["background"] = np.zeros(SCENES, np.int16)
    arrays["images"] = np.zeros((SCENES, SIDE, SIDE, 3), np.uint8)
    visible = np.zeros((SCENES, 4, SIDE, SIDE), bool)
    captions = []
    for i in range(SCENES):
        scene, rng = held_out_scene(i)
        drawn = render(scene)
        arrays["images"][i] = drawn.image
        arrays["background"][i] = list(BACKGROUNDS).index(scene.background)
        for k, thing in enumerate(scene.things):
            for name, values in FIELDS.items():
                arrays[name][i, k] = values.index(getattr(thing, name))
            for name in ("side", "x", "y"):
                arrays[name][i, k] = getattr(thing, name)
            visible[i, k] = drawn.visible[k]
        written = {"short": short_caption(scene, rng), "long": long_caption(scene, rng)}
        captions.append(
            {
                key: {"text": c.text, "phrases": [vars(p) for p in c.phrases], "relations": c.relations}
                for key, c in written.items()
            }
        )
    np.savez_compressed(folder / "scenes.npz", visible=np.packbits(visible, axis=-1), **arrays)
    (folder / "scenes.json").write_text(json.dumps(captions))
    (folder / "README.md").write_text(CARD)


CARD = """# Data card

Rendered by `helpers/miniature/world.py` from fixed seeds (`python -m helpers.miniature.cases`).
No photographs, no people.

- `layouts.json`: benchmark cases. `dev` (64) chooses strengths and windows, `test` (200) is for tables and figures,
  `many` (32) has 5 and 6 objects and lies outside mini-sd's training distribution. A case holds a prompt that names
  every object, the seed of the initial noise, the background, and per phrase a box (fractions of the side) and a mask
  (run lengths). In every fourth block of four cases an object shows a colour that mini-sd never saw on its kind.
- `captions.json`: what can be said about the scenes of these cases: a short caption (the prompt in `layouts.json`), a
  long one with every attribute and a chain of relations, and the long one with its sentences shuffled; each with its
  phrases, their places and the relations.
- `drags.json` (`python -m helpers.miniature.drags`): drags on rendered held-out scenes, so that the edited picture is
  known; `dev` (32) and `test` (128). `drawn_drags.json` (`python -m helpers.training.drawn_drags`): as many on pictures
  that mini-sd drew.
- `scenes.npz`: 1,000 held-out scenes: images, visible masks (bits packed along x), kind, colour, pattern, size, side,
  centre, background. The last 200 show unseen compositions.
- `scenes.json`: a short and a long caption of each scene, with the characters of every phrase and the relations.

Objects are 19 to 31 px wide in a 64 px image; in about one scene of seven they may overlap, back to front in list
order.
"""


if __name__ == "__main__":
    write()
