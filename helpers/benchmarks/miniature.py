"""The benchmark of the miniature world: prompts and layouts with exact masks, and held-out scenes, read from data/.

`helpers.miniature.cases` drew them. Drags are in `helpers.benchmarks.miniature_drags`.
"""

import json
from functools import cache

import numpy as np

from helpers.benchmarks.files import of_split, stored
from helpers.miniature.items import Case
from helpers.miniature.scene import Scene, Thing
from helpers.miniature.vocabulary import BACKGROUNDS, FIELDS

JUDGE = "judge"
SPLITS = ("dev", "test", "many")


@cache
def load_cases(split: str) -> tuple[Case, ...]:
    """The cases of "dev", "test" or "many" (5 and 6 objects) under their short captions, without relations.

    Raises FileNotFoundError when data/ is missing, ValueError for an unknown split.
    """
    return tuple(Case.model_validate(case) for case in of_split("layouts.json", split))


@cache
def load_captioned(split: str, caption: str = "short") -> tuple[Case, ...]:
    """The same cases under "short", "long" or "shuffled" captions, with the relations that these state.

    Things and regions stand in the order in which the caption first names them.
    """
    cases, captions = load_cases(split), of_split("captions.json", split)
    if caption not in captions[0]:
        raise ValueError(f"unknown caption {caption!r}; choose one of {', '.join(captions[0])}")
    return tuple(_captioned(case, said[caption]) for case, said in zip(cases, captions, strict=True))


items = load_captioned  # as a benchmark


def _captioned(case: Case, said: dict) -> Case:
    first = {thing: (words, start) for words, start, thing in reversed(said["phrases"])}
    order = sorted(first, key=lambda thing: first[thing][1])
    regions = tuple(
        case.layout.regions[thing].model_copy(update={"phrase": first[thing][0], "start": first[thing][1]})
        for thing in order
    )
    return Case.model_validate(
        case.model_dump()
        | {
            "prompt": said["text"],
            "layout": {"prompt": said["text"], "regions": [region.model_dump() for region in regions]},
            "things": [case.things[thing].model_dump() for thing in order],
            "relations": [(order.index(i), words, order.index(j)) for i, words, j in said["relations"]],
        }
    )


@cache
def load_scenes() -> tuple[dict[str, np.ndarray], list[dict]]:
    """The 1,000 held-out scenes: (arrays, captions).

    arrays: images (1000, 64, 64, 3) uint8; visible (1000, 4, 64, 64) bool; kind, color, pattern, size (1000, 4) indices
    into FIELDS (-1 where there is no object); side, x, y in pixels; background (1000,), an index into BACKGROUNDS.
    captions: per scene {"short", "long"}, each {"text", "phrases", "relations"}.
    """
    with np.load(stored("scenes.npz")) as file:
        arrays = dict(file)
    arrays["visible"] = np.unpackbits(arrays["visible"], axis=-1).astype(bool)
    return arrays, json.loads(stored("scenes.json").read_text())


def scene_of(arrays: dict[str, np.ndarray], i: int) -> Scene:
    """Held-out scene i as plain data; rendering it gives the stored image."""
    things = [
        Thing(
            **{name: values[arrays[name][i, k]] for name, values in FIELDS.items()},
            **{name: int(arrays[name][i, k]) for name in ("side", "x", "y")},
        )
        for k in range(4)
        if arrays["kind"][i, k] >= 0
    ]
    return Scene(list(BACKGROUNDS)[arrays["background"][i]], tuple(things))
