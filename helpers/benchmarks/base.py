"""What a benchmark is: items to draw pictures for, and the name of the judge that can score these."""

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from helpers.conditions import Drag, Layout


class Item(Protocol):
    """What one picture is drawn for. seed: of its initial noise. What is known of the truth stands in further fields.

    The kinds that follow add what the user draws.
    """

    id: str
    seed: int
    prompt: str


class LayoutItem(Item, Protocol):
    """layout: of the prompt's phrases. things: per region what it asks for, with `kind`, `color`, `pattern`. relations:
    (subject, words, object) that the prompt states, as positions in `things`. background: the wanted one's name."""

    layout: Layout
    things: Sequence
    relations: Sequence[tuple[int, str, int]]
    background: str


class DragItem(Item, Protocol):
    """drag: motions and their source picture. moved: the dragged objects, with `kind`, `color`, `box` and `edited_box`
    (x0, y0, x1, y1) in pixels before and after the edit."""

    drag: Drag
    moved: Sequence


class Benchmark(Protocol):
    """A module of this package is one. JUDGE: a name that `helpers.judges.loading.load_judge` takes."""

    JUDGE: str
    SPLITS: tuple[str, ...]

    def items(self, split: str, **variant: str) -> Sequence[Item]:
        """The items of a split, in a fixed order. variant: a benchmark's own choices, such as whose words."""
        ...


def load_benchmark(name: str) -> Benchmark:
    """The benchmark in helpers/benchmarks/<name>.py; ValueError naming the known ones.

    Nobody imports it by name, so what depends on its code has to say so.
    """
    folder = Path(__file__).parent
    known = [path.stem for path in sorted(folder.glob("*.py")) if re.search(r"^JUDGE = ", path.read_text(), re.M)]
    if name not in known:
        raise ValueError(f"unknown benchmark {name!r}; choose one of {', '.join(known)}")
    return import_module(f"helpers.benchmarks.{name}")
