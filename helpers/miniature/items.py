"""Benchmark cases of the miniature world, as data/ stores them: plain validated data."""

from pydantic import BaseModel, ConfigDict

from helpers.conditions import Drag, Layout
from helpers.miniature.scene import Scene


class Named(BaseModel):
    """What the caption asks for in one region."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    color: str
    pattern: str
    size: str


class Case(BaseModel):
    """One benchmark case: a prompt that names every object of a scene, and the layout of that scene.

    relations: (subject, words, object) that the prompt states, as positions in `things`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    seed: int
    prompt: str
    seen: bool  # no held-out colour-object pair occurs
    background: str
    layout: Layout
    things: tuple[Named, ...]
    relations: tuple[tuple[int, str, int], ...] = ()


class Moved(BaseModel):
    """A dragged object and its box (x0, y0, x1, y1) in pixels, before and, where it is known, after the edit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    color: str
    box: tuple[int, int, int, int]
    edited_box: tuple[int, int, int, int]


class DragCase(BaseModel):
    """A drag and what is known of it.

    moved: the dragged objects. scene, shifts: the source and (object, dx, dy) in pixels of every motion, which give the
    edited picture; None for a source that mini-sd drew. seed: of the noise that recurrence adds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    seed: int
    form: str
    drag: Drag
    moved: tuple[Moved, ...]
    scene: Scene | None = None
    shifts: tuple[tuple[int, int, int], ...] = ()

    @property
    def prompt(self) -> str:
        return self.drag.prompt
