"""Drags on scenes of the miniature world, read from data/: on rendered pictures, of which the edit is known, and on
pictures that mini-sd drew.

`helpers.miniature.drags` and `helpers.training.drawn_drags` made them.
"""

from functools import cache

from helpers.benchmarks.files import of_split
from helpers.miniature.items import DragCase

JUDGE = "judge"
SPLITS = ("dev", "test")
FILES = {"rendered": "drags.json", "drawn": "drawn_drags.json"}


@cache
def load_drags(split: str, source: str = "rendered") -> tuple[DragCase, ...]:
    """The cases of "dev" or "test" whose sources were "rendered" or "drawn" by mini-sd.

    FileNotFoundError when the file is missing, ValueError for an unknown split or source.
    """
    if source not in FILES:
        raise ValueError(f"unknown source {source!r}; choose one of {', '.join(FILES)}")
    return tuple(DragCase.model_validate(case) for case in of_split(FILES[source], split))


items = load_drags  # as a benchmark
