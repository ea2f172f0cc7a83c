"""Drags of pictures that mini-sd drew: dev and test cases in data/drawn_drags.json, as `helpers.miniature.drags`.

The judge finds the object and the space that is free; what the edited picture should look like is not known.
`python -m helpers.training.drawn_drags` writes the file. A case's seed, CFG at `CFG_SCALE` and `STEPS` steps draw its
source again, whose trajectory `helpers.sampling.inversion.trajectory` then keeps.
"""

from pathlib import Path

import numpy as np
from scipy import ndimage

from helpers.backbones.backbone import Backbone
from helpers.backbones.load import load_backbone
from helpers.benchmarks.miniature_drags import FILES, DragCase
from helpers.conditions import Drag, Move, encode_image
from helpers.guidance.cfg import CFG
from helpers.judges.base import Found
from helpers.judges.loading import load_judge
from helpers.judges.recogniser import Recogniser
from helpers.miniature.captions import short_caption
from helpers.miniature.drags import LONGEST, SHORTEST, SPLITS, fraction, handle_on, store
from helpers.miniature.items import Moved
from helpers.miniature.vocabulary import SIDE
from helpers.miniature.world import random_scene
from helpers.paths import DATA
from helpers.sampling.loop import sample

SEED = 9_500
CFG_SCALE, STEPS = 5.0, 20


def _way(rng: np.random.Generator, moved: Found, others: np.ndarray) -> tuple[int, int] | None:
    """A motion (dx, dy) in pixels that keeps the object's box inside the picture and off all others' pixels."""
    x0, y0, x1, y1 = moved.box
    for _ in range(50):
        length, angle = rng.uniform(SHORTEST, LONGEST), rng.uniform(0, 2 * np.pi)
        dx, dy = round(length * np.cos(angle)), round(length * np.sin(angle))
        if min(x0 + dx, y0 + dy) >= 0 and max(x1 + dx, y1 + dy) <= SIDE:
            if not others[y0 + dy : y1 + dy, x0 + dx : x1 + dx].any():
                return dx, dy
    return None


def make_case(split: str, number: int, backbone: Backbone, judge: Recogniser) -> DragCase:
    """Case `number` of a split: the first of its pictures that shows just what its prompt names, with room to move."""
    rng = np.random.default_rng([SEED, list(SPLITS).index(split), number])
    while True:
        scene = random_scene(rng, int(rng.integers(1, 4)), held_out=False)
        while (caption := short_caption(scene, rng)).relations:
            pass
        seed = int(rng.integers(2**31))
        images = sample(backbone, caption.text, [CFG(CFG_SCALE)], steps=STEPS, seeds=[seed]).images
        found = judge.recognise(images)[0]
        if sorted((f.kind, f.color) for f in found) != sorted((t.kind, t.color) for t in scene.things):
            continue
        moved = found[rng.integers(len(found))]
        others = np.zeros((SIDE, SIDE), bool)
        for f in found:
            others |= f.mask if f is not moved else False
        if way := _way(rng, moved, ndimage.binary_dilation(others)):
            break
    x, y = handle_on(moved.mask, (moved.box[0] + moved.box[2] - 1) / 2, (moved.box[1] + moved.box[3] - 1) / 2)
    source = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    target = fraction(x + way[0], y + way[1])
    edited = tuple(v + d for v, d in zip(moved.box, (*way, *way)))
    return DragCase(
        id=f"drawn-{split}-{number:03d}",
        seed=seed,
        form="drawn",
        drag=Drag(
            prompt=caption.text,
            source=encode_image(source),
            moves=(Move(handle=fraction(x, y), target=target),),
        ),
        moved=(Moved(kind=moved.kind, color=moved.color, box=moved.box, edited_box=edited),),
    )


def write(folder: Path = DATA) -> None:
    """Write drawn_drags.json."""
    backbone, judge = load_backbone("mini-sd", device="cpu"), load_judge("judge")
    cases = {split: [make_case(split, i, backbone, judge) for i in range(n)] for split, n in SPLITS.items()}
    store(cases, folder / FILES["drawn"])


if __name__ == "__main__":
    write()
