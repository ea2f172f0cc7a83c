"""Draws the drag benchmark on rendered scenes: dev and test cases with the edited picture known, in data/drags.json.

`python -m helpers.miniature.drags` writes the file; everything follows from fixed seeds. Drags of pictures that mini-sd
drew itself are made by `helpers.training.drawn_drags`; `helpers.benchmarks.miniature_drags` reads both.
"""

from pathlib import Path

import numpy as np

from helpers.conditions import Drag, Move, encode_image
from helpers.files import writing
from helpers.miniature.captions import short_caption
from helpers.miniature.items import DragCase, Moved
from helpers.miniature.scene import Scene, Thing, mask_box, shifted
from helpers.miniature.vocabulary import SIDE
from helpers.miniature.world import random_scene, render
from helpers.paths import DATA

SEED = 9_000
SPLITS = {"dev": 32, "test": 128}
FORMS = ["one"] * 5 + ["two handles", "two objects", "partly outside"]  # one after the other
SHORTEST, LONGEST = 8, 26  # pixels of a drag


def fraction(x: float, y: float) -> tuple[float, float]:
    """The centre of a pixel as fractions of the side."""
    return (x + 0.5) / SIDE, (y + 0.5) / SIDE


def handle_on(mask: np.ndarray, x: float, y: float) -> tuple[int, int]:
    """The pixel (x, y) of a bool mask that is nearest to a point and not on the object's border."""
    core = mask.copy()
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            core &= np.roll(mask, step, axis)
    ys, xs = np.nonzero(core if core.any() else mask)
    best = ((xs - x) ** 2 + (ys - y) ** 2).argmin()
    return int(xs[best]), int(ys[best])


def _shift(rng: np.random.Generator, scene: Scene, index: int, outside: bool) -> tuple[int, int] | None:
    """A motion of one object that keeps every object at least 85 % visible, whole inside the image or partly outside
    (a twentieth to a quarter of it); None when none of 50 tries is one."""
    area = render(scene).amodal[index].sum()
    thing = scene.things[index]
    for _ in range(50):
        length, angle = rng.uniform(SHORTEST, LONGEST), rng.uniform(0, 2 * np.pi)
        dx, dy = round(length * np.cos(angle)), round(length * np.sin(angle))
        if not (0 <= thing.x + dx < SIDE and 0 <= thing.y + dy < SIDE):
            continue
        drawn = render(shifted(scene, [(index, dx, dy)]))
        whole = drawn.amodal[index].sum() / area
        seen = drawn.visible.sum((1, 2)) / drawn.amodal.sum((1, 2))
        if (0.75 <= whole <= 0.95 if outside else whole == 1) and seen.min() >= 0.85:
            return dx, dy
    return None


def _handles(mask: np.ndarray, thing: Thing, dx: int, dy: int, two: bool) -> list[tuple[int, int]]:
    """One handle near the centre, or one in the left and one in the right half; their targets stay in the picture."""
    reach = np.zeros((SIDE, SIDE), bool)
    reach[max(-dy, 0) : SIDE - max(dy, 0), max(-dx, 0) : SIDE - max(dx, 0)] = True
    places = (-thing.side / 4, thing.side / 4) if two else (0,)
    return [handle_on(mask & reach, thing.x + place, thing.y) for place in places]


def _edit(rng: np.random.Generator, form: str) -> tuple[Scene, list[tuple[int, int, int]]]:
    """A scene of one to three objects of different kinds, and the motions of one or two that nothing covers."""
    count = 2 if form == "two objects" else 1
    while True:
        scene = random_scene(rng, int(rng.integers(count, 4)), held_out=False)
        kinds = {thing.kind for thing in scene.things}  # two of a kind are hard to tell apart, also for the judge
        drawn, shifts = render(scene), []
        for index in [int(i) for i in rng.permutation(len(scene.things))[:count]]:
            way = _shift(rng, shifted(scene, shifts), index, form == "partly outside")
            covered = (drawn.amodal[index] & ~drawn.visible[index]).any()
            if way and not covered:
                shifts.append((index, *way))
        if len(kinds) == len(scene.things) and len(shifts) == count:
            return scene, shifts


def make_case(split: str, number: int) -> DragCase:
    """Case `number` of a split, of form FORMS[number % 8], in colours that training showed on these kinds.

    Captions state no relations, which a drag might make wrong.
    """
    rng = np.random.default_rng([SEED, list(SPLITS).index(split), number])
    form = FORMS[number % len(FORMS)]
    scene, shifts = _edit(rng, form)
    while (caption := short_caption(scene, rng)).relations:
        pass
    before, after = render(scene), render(shifted(scene, shifts))
    moves, moved = [], []
    for index, dx, dy in shifts:
        thing, mask = scene.things[index], before.visible[index]
        for x, y in _handles(mask, thing, dx, dy, form == "two handles"):
            moves.append(Move(handle=fraction(x, y), target=fraction(x + dx, y + dy)))
        boxes = {"box": mask_box(mask), "edited_box": mask_box(after.visible[index])}
        moved.append(Moved(kind=thing.kind, color=thing.color, **boxes))
    return DragCase(
        id=f"{split}-{number:03d}",
        seed=SEED * 10 + 1_000 * list(SPLITS).index(split) + number,
        form=form,
        drag=Drag(prompt=caption.text, source=encode_image(before.image), moves=tuple(moves)),
        moved=tuple(moved),
        scene=scene,
        shifts=tuple(shifts),
    )


def store(cases: dict[str, list[DragCase]], path: Path) -> None:
    """Write cases by split as JSON, one case a line."""
    lines = {
        split: ",\n".join(case.model_dump_json(exclude_defaults=True) for case in some) for split, some in cases.items()
    }
    with writing(path) as file:
        file.write("{" + ",\n".join(f'"{split}": [\n{text}\n]' for split, text in lines.items()) + "}\n")


def write(folder: Path = DATA) -> None:
    """Write drags.json."""
    store({split: [make_case(split, i) for i in range(n)] for split, n in SPLITS.items()}, folder / "drags.json")


if __name__ == "__main__":
    write()
