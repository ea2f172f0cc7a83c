"""A prompt, a layout and a drag for the same scene: the benchmark on which modules of guidance are combined.

The scenes are those of data/drags.json with two objects or more. What the edited picture shows is said in a long
caption, with every attribute and a chain of relations, and laid out in boxes; the drag leads there.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from helpers.benchmarks.miniature_drags import load_drags
from helpers.miniature.captions import long_caption
from helpers.miniature.items import Case, DragCase
from helpers.miniature.layouts import layout_case
from helpers.miniature.scene import shifted

JUDGE = "judge"
SPLITS = ("dev", "test")
SEED = 9_700


@dataclass(frozen=True)
class CombinedCase:
    """scene: caption and layout of the edited scene. drag: from the source to there, under the same caption."""

    scene: Case
    drag: DragCase

    @property
    def id(self) -> str:
        return self.scene.id

    @property
    def seed(self) -> int:
        return self.scene.seed

    @property
    def prompt(self) -> str:
        return self.scene.prompt


def combine(number: int, drag: DragCase) -> CombinedCase:
    """The case of a drag on a rendered scene."""
    edited = shifted(drag.scene, drag.shifts)
    caption = long_caption(edited, np.random.default_rng([SEED, number]))
    named = drag.model_copy(update={"drag": drag.drag.model_copy(update={"prompt": caption.text})})
    return CombinedCase(layout_case(edited, caption, drag.id, drag.seed), named)


@cache
def load_combined(split: str) -> tuple[CombinedCase, ...]:
    """The cases of "dev" or "test"; errors as `load_drags`."""
    return tuple(combine(k, drag) for k, drag in enumerate(load_drags(split)) if len(drag.scene.things) > 1)


items = load_combined  # as a benchmark
