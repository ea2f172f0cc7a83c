"""The whole of params.yaml checked, before any stage begins: `python -m helpers.experiments.check` asks every block's
experiment, and every method about its own settings."""

import importlib
from collections.abc import Iterator

from helpers.experiments import methods
from helpers.params import Case, Experiment, MethodCase, Profile, Sampling, known, read, section
from helpers.training.plans import plan

SHARED = ("run", "profiles", "sampling", "training")  # blocks that are no experiment


def check() -> None:
    """ValueError names the first entry that is wrong, its value and the cure."""
    data = read()
    for block in SHARED:
        known(data, block, "block")
    for name in data["profiles"]:
        section(("profiles", name), Profile, data)
    known(data["profiles"], data["run"]["profile"], "profile")
    section(("sampling",), Sampling, data)
    for model, profiles in data["training"].items():
        for name in profiles:
            plan(model, name, data)
    for name in data:
        if name not in SHARED:
            for place, case in _cases(name, data):
                try:
                    methods.checked(case)
                except ValueError as error:
                    raise ValueError(f"params.yaml is not valid; correct {name}.{place}: {error}") from None


def _cases(name: str, data: dict) -> Iterator[tuple[str, MethodCase]]:
    """Every case of an experiment that may name a method, those that it searches or combines among them, and where it
    stands."""
    try:
        module = importlib.import_module(f"helpers.experiments.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"helpers.experiments.{name}":
            raise
        raise ValueError(f"unknown block {name!r}: there is no helpers/experiments/{name}.py") from None
    experiment = section((name,), module.Experiment, data)
    every = getattr(module, "every_case", _own)
    yield from ((place, case) for place, case in every(experiment, data) if isinstance(case, MethodCase))


def _own(experiment: Experiment, data: dict) -> Iterator[tuple[str, Case]]:
    yield from ((f"cases.{name}", case) for name, case in experiment.cases.items())


if __name__ == "__main__":
    check()
