"""Closing a widget frees all that it is made of; an explorer whose cell runs again keeps its choices."""

from collections.abc import Callable, Mapping

import ipywidgets as widgets
from IPython import get_ipython

HELD = ("children", "layout", "style")  # traits of a widget that hold others
_opened: dict[
    tuple[str, str], tuple[str, list, list]
] = {}  # (kind, cell) -> run, its explorers, those of the one before


def close_all(*parts: widgets.Widget) -> None:
    """Close widgets with all that they hold; ipywidgets closes only what it is told."""
    for part in parts:
        held = [getattr(part, name) for name in HELD if part.has_trait(name)]
        part.close()
        part.unobserve_all()  # what observed it is forgotten, too, and what that remembers
        for value in held:
            close_all(*(one for one in (value if isinstance(value, tuple) else (value,)) if one.comm is not None))


class Explorer(widgets.VBox):
    """Widgets that are closed together. controls: whose values are the choices; others: what is no child, such as a
    link; forget: is called when it is closed. refresh: shows what the controls say."""

    def __init__(self, children, controls: Mapping[str, widgets.Widget], others=(), forget=None, refresh=None):
        self.controls, self.others, self.forget, self.refresh = controls, others, forget, refresh
        super().__init__(children)

    def close(self) -> None:
        if self.comm is None:
            return
        super().close()
        close_all(*self.others, *self.children, self.layout)
        self.children = ()
        if self.forget:
            self.forget()
        self.controls, self.others, self.forget, self.refresh = {}, (), None, None

    def choices(self) -> dict[str, object]:
        """What is chosen, by the labels that a person sees: they mean the same with other Traces."""
        return {name: getattr(control, "label", control.value) for name, control in self.controls.items()}


def restore(control: widgets.Widget, choice: object) -> None:
    """Choose it again, where it can be chosen."""
    if choice is None:
        return
    if hasattr(control, "label"):
        if choice in control._options_labels:
            control.label = choice
    else:
        control.value = min(max(choice, control.min), control.max) if hasattr(control, "min") else choice


def cell() -> tuple[str, str] | None:
    """The cell that runs and its run, as JupyterLab names them; None outside a cell of a notebook."""
    kernel = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent() if kernel else {}
    known = parent.get("metadata", {}).get("cellId")
    return (known, parent["header"]["msg_id"]) if known else None


def reopened(kind: str, where: tuple[str, str] | None, make: Callable[[dict], Explorer]) -> Explorer:
    """make(choices of the explorer that this cell showed at this place when it ran last), which is closed."""
    if where is None:
        return make({})
    name, run = where
    last, now, before = _opened.get((kind, name), (run, [], []))
    if last != run:
        now, before = [], now
    old = before[len(now)] if len(now) < len(before) else None
    found = make(old.choices() if old and old.comm is not None else {})
    if old:
        old.close()
    _opened[kind, name] = run, [*now, found], before
    return found
