"""Methods by name: a case of params.yaml says `method: dga`, and `helpers/guidance/dga.py` is what is meant.

Nothing is registered: a new file there can be named at once. Its settings are its fields, see
`helpers.sampling.settings`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import helpers.guidance
from helpers.guidance.cfg import CFG
from helpers.params import MethodCase, Stated
from helpers.sampling.hooks import Guidance
from helpers.sampling.settings import validated


def names() -> list[str]:
    """Every method there is."""
    return [module.name for module in pkgutil.iter_modules(helpers.guidance.__path__)]


def method(name: str) -> type[Guidance]:
    """The Guidance that the file of this name defines; ValueError naming the known ones."""
    if name not in names():
        raise ValueError(f"unknown method {name!r}: use one of {', '.join(names())}")
    module = importlib.import_module(f"helpers.guidance.{name}")
    own = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Guidance) and kind.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise ValueError(f"helpers/guidance/{name}.py defines {len(own)} methods: a file is one method")
    return own[0]


def checked(case: MethodCase) -> MethodCase:
    """The case itself; ValueError unless its methods are there and take its settings. No model is loaded for that."""
    for stated in case.methods:
        kind = method(stated.method)
        if stated.paper and not hasattr(kind, "paper"):
            raise ValueError(f"{stated.method} has no paper's values: leave out `paper`")
        validated(kind, stated.settings)
    return case


def make(stated: Stated, given: Mapping[str, Any]) -> Guidance:
    """A method with its settings, and of what is `given` (layouts, models, ...) that which it takes."""
    kind = method(stated.method)
    own = {one.name for one in fields(kind)}
    maker = kind.paper if stated.paper else kind
    return maker(**{name: value for name, value in given.items() if name in own} | validated(kind, stated.settings))


def guidance(case: MethodCase, cfg_scale: float, **given: Any) -> list[Guidance]:
    """What a case is sampled with: classifier-free guidance, unless a method decides itself how predictions are
    combined, and the methods that the case names."""
    combining = {"cfg_scale": cfg_scale}
    made = [make(stated, combining | given if method(stated.method).decides else given) for stated in case.methods]
    return made if any(one.decides for one in made) else [CFG(cfg_scale), *made]
