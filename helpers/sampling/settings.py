"""The settings of a method are the fields of its dataclass: each declared once, checked when the object is made."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from math import inf, isfinite
from numbers import Real
from typing import Any


def setting(default: Any = MISSING, low: float = -inf, high: float = inf, choices: Collection[str] | None = None):
    """A field that is a finite number in [low, high], or one of some words. A whole number stays one: a field whose
    default is an int takes no fraction."""
    return field(default=default, metadata={"low": low, "high": high, "choices": choices, "checked": True})


def check(method: Any) -> None:
    """Every field of a frozen dataclass: numbers in their range, words among their choices, and what a value class can
    make of plain data (a window of a pair, a strength of a mapping) made so. ValueError names field, value and cure."""
    for one in fields(method):
        value = getattr(method, one.name)
        made = _field(value, one, f"{type(method).__name__}({one.name}={value!r:.60})")
        if made is not value:
            object.__setattr__(method, one.name, made)


def _field(value: Any, one: Field, where: str) -> Any:
    """The value of a field as it is kept."""
    make = getattr(one.type, "of", None)
    if make and not isinstance(value, one.type):
        if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
            raise ValueError(f"{where}: {one.type.__name__} is needed")
        try:
            return make(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
    if one.metadata.get("checked"):
        _one(value, one, where)
    return value


def _one(value: Any, one: Field, where: str) -> None:
    choices, low, high = (one.metadata[key] for key in ("choices", "low", "high"))
    if choices is not None:
        if value not in choices:
            raise ValueError(f"{where}: use one of {', '.join(map(str, choices))}")
    elif isinstance(one.default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{where}: use True or False")
    elif value is None and one.default is None:
        return
    elif isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{where}: a number is needed, not {type(value).__name__}")
    elif not isfinite(value) or not low <= value <= high:
        raise ValueError(f"{where}: use a finite number from {low:g} to {high:g}")
    elif isinstance(one.default, int) and value != int(value):
        raise ValueError(f"{where}: a whole number is needed")


def plain(value: Any) -> Any:
    """A setting as JSON data."""
    if hasattr(value, "settings"):
        return value.settings()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    return value


def validated(kind: type, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method class given as plain data, checked without making one; ValueError names those it has."""
    settable = {one.name: one for one in fields(kind) if one.metadata.get("checked") or hasattr(one.type, "of")}
    for name, value in stated.items():
        if name not in settable:
            raise ValueError(f"{kind.__name__} has no setting {name!r}: use one of {', '.join(settable)}")
        _field(value, settable[name], f"{kind.__name__}({name}={value!r:.60})")
    return dict(stated)
