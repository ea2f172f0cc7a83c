"""Draws layouts of free boxes, as a person draws them, into data/: `python -m helpers.miniature.free_boxes`.

The boxes of data/layouts.json are cut around silhouettes; these are drawn first, of any aspect and size, and nobody
asks whether an object can fill them. A case keeps the box as it was drawn, and as the mask the silhouette that fills it
best: of the object's kind, in any size that the world draws, with the box IoU of `fit`. Prompts name no size.
Everything follows from fixed seeds.
"""

import json
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np

from helpers.files import writing
from helpers.miniature.captions import short_caption
from helpers.miniature.items import Case
from helpers.miniature.layouts import layout_case
from helpers.miniature.scene import Scene, Thing, mask_box
from helpers.miniature.vocabulary import SIDE, SIZES
from helpers.miniature.world import random_scene, render, sprite
from helpers.paths import DATA

NAME = "free_boxes.json"
SEED = 7_400
SPLITS = {"dev": [1, 2, 3, 4] * 16, "test": [1, 2, 3, 4] * 24}  # objects per layout, one count after the other
SHAPES = {  # what people draw -> the shares of it, its longer and its shorter side in pixels, from and to
    "any": (0.55, (20, 38), (18, 32)),
    "elongated": (0.2, (30, 46), (12, 20)),
    "large": (0.1, (36, 50), (32, 44)),
    "small": (0.15, (13, 18), (13, 18)),
}
SHARED = 0.03  # of the smaller of two boxes, at most, lies in the other
TOUCHING = 12  # pixels that the silhouettes in two boxes have in common at most

Box = tuple[int, int, int, int]


@cache
def extent(kind: str, side: int) -> Box:
    """The tight box (x0, y0, x1, y1) of a silhouette in its cell of `side` pixels."""
    return mask_box(sprite(kind, "red", "plain", side)[..., 3] > 0.5)  # of any colour


def sides() -> list[tuple[str, int]]:
    """(size's name, side of the cell in pixels) of all objects that scenes of at most four objects have."""
    return [(name, side + more) for name, side in SIZES.items() for more in (-1, 0, 1)]


def overlap(one: Box, other: Box) -> int:
    """Pixels that two boxes (x0, y0, x1, y1) have in common."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def fit(thing: Thing, box: Box) -> tuple[Thing, float]:
    """The object as it fills a box best, and its box IoU there: no size and no place inside the picture gives more.

    With its centre on the box's it has as much in common with it as its sides allow; where that leaves the picture it
    is moved back, which costs nothing, since the box is inside.
    """
    best, reached = thing, -1.0
    for size, side in sides():
        x0, y0, x1, y1 = extent(thing.kind, side)
        left, top = (
            min(max((box[k] + box[k + 2] - length) // 2, 0), SIDE - length)
            for k, length in ((0, x1 - x0), (1, y1 - y0))
        )
        placed = (left, top, left + x1 - x0, top + y1 - y0)
        common = overlap(placed, box)
        iou = common / (area(placed) + area(box) - common)
        if iou > reached:
            corner = left - x0 + side // 2, top - y0 + side // 2  # a cell begins side // 2 before its centre
            best, reached = replace(thing, size=size, side=side, x=corner[0], y=corner[1]), iou
    return best, reached


def draw_box(rng: np.random.Generator) -> Box:
    """A box of some shape, anywhere in the picture."""
    _, longer, shorter = list(SHAPES.values())[rng.choice(len(SHAPES), p=[share for share, *_ in SHAPES.values()])]
    lengths = sorted(int(rng.integers(low, high + 1)) for low, high in (longer, shorter))
    width, height = lengths if rng.random() < 0.5 else lengths[::-1]
    x, y = (int(rng.integers(0, SIDE - length + 1)) for length in (width, height))
    return x, y, x + width, y + height


def draw_boxes(rng: np.random.Generator, n: int) -> list[Box]:
    """n boxes that hardly overlap; where one finds no place all are drawn again."""
    while True:
        boxes: list[Box] = []
        for _ in range(40 * n):
            box = draw_box(rng)
            if all(overlap(box, other) <= SHARED * min(area(box), area(other)) for other in boxes):
                boxes.append(box)
            if len(boxes) == n:
                return boxes


def make_case(split: str, number: int, n: int) -> Case:
    """Case `number` of a split; every fourth block of four shows a composition held out in training."""
    rng = np.random.default_rng([SEED, list(SPLITS).index(split), number])
    drawn = random_scene(rng, n, held_out=number // 4 % 4 == 3)
    while True:
        boxes = draw_boxes(rng, n)
        scene = Scene(drawn.background, tuple(fit(*pair)[0] for pair in zip(drawn.things, boxes, strict=True)))
        masks = render(scene).amodal
        if all((one & other).sum() <= TOUCHING for one, other in combinations(masks, 2)):
            break
    while True:
        caption = short_caption(scene, rng)
        if not any(phrase.text.startswith(tuple(SIZES)) for phrase in caption.phrases):
            break
    seed = SEED * 10 + 1_000 * list(SPLITS).index(split) + number
    case = layout_case(scene, caption, f"free-{split}-{number:03d}", seed)
    order = [phrase.thing for phrase in sorted(caption.phrases, key=lambda phrase: phrase.start)]
    regions = tuple(
        region.model_copy(update={"box": tuple(v / SIDE for v in boxes[thing])})
        for region, thing in zip(case.layout.regions, order, strict=True)
    )
    return case.model_copy(update={"layout": case.layout.model_copy(update={"regions": regions})})


def write(folder: Path = DATA) -> None:
    """Write free_boxes.json: split -> cases, as in layouts.json, with the relations that the prompts state."""
    made = {split: [make_case(split, k, n) for k, n in enumerate(counts)] for split, counts in SPLITS.items()}
    cases = {split: [case.model_dump(mode="json") for case in part] for split, part in made.items()}
    with writing(folder / NAME) as file:
        json.dump(cases, file, indent=1)


if __name__ == "__main__":
    write()
