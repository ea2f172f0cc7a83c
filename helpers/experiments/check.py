"""The whole of params.yaml checked, before any stage begins: `python -m helpers.experiments.check` asks every block's
experiment, every method about its own settings, and the sampler whether what a case names can act in one run. No model
is loaded for that."""

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from helpers.backbones.load import NAMED
from helpers.benchmarks.base import load_benchmark
from helpers.experiments import combinations, dca, dga, dma, ilgd, layout, methods, robustness
from helpers.params import PATH, Block, Case, MethodCase, Params, Profile, Sampling, known, read, section
from helpers.paths import ROOT
from helpers.perception import flow
from helpers.perception.loading import HUB_ID, source
from helpers.pipeline.fingerprint import ROLES
from helpers.sampling import loop
from helpers.training.plans import plan

SHARED = ("run", "profiles", "sampling", "training")  # blocks that are no experiment
OWN = ("method", "images", "baseline")  # of a case: what a search or an ablation does not vary
TRAIN = ROOT / "notebooks" / "train"


def check(path: Path = PATH) -> None:
    """ValueError names the first entry that is wrong, its value and the cure."""
    data = _read(path)
    for block in SHARED:
        _entries(known(data, block, "block"), block)
    _run(data)
    for name in data["profiles"]:
        section(("profiles", name), Profile, data, path)
    section(("sampling",), Sampling, data, path)
    with _correct("sampling.backbone"):
        _backbone(data["sampling"]["backbone"])
    _training(data)
    for name in data:
        if name not in SHARED:
            _experiment(name, data)


@contextmanager
def _correct(place: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"params.yaml is not valid; correct {place}: {error}") from None


def _entries(value: Any, place: str) -> None:
    with _correct(place):
        if not isinstance(value, Mapping) or not value:
            raise ValueError(f"it is {value!r:.40}, without entries: state them as `name: ...`")


def _read(path: Path) -> dict[str, Any]:
    """The file; also where a case is no case, which a case that is `like` it cannot take over."""
    try:
        return read(path)
    except TypeError:
        for name, block in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            for case, own in block["cases"].items() if isinstance(block, dict) and "cases" in block else ():
                _entries(own, f"{name}.cases.{case}")
                with _correct(f"{name}.cases"):
                    if not isinstance(case, str):
                        raise ValueError(f"{case!r} is no text: name the case by one") from None
        raise


def _run(data: Mapping[str, Any]) -> None:
    run = data["run"]
    with _correct("run"):
        known(run, "profile", "entry")
        unknown = next((name for name in run if name != "profile"), None)
        if unknown is not None:
            raise ValueError(f"unknown entry {unknown!r}: run has only the entry profile")
    with _correct("run.profile"):
        if not isinstance(run["profile"], str):
            raise ValueError(f"it is {run['profile']!r:.40}: name one of {', '.join(map(str, data['profiles']))}")
        known(data["profiles"], run["profile"], "profile")


def _training(data: Mapping[str, Any]) -> None:
    models = sorted(notebook.stem for notebook in TRAIN.glob("*.ipynb"))
    for model, profiles in data["training"].items():
        with _correct("training"):
            known(dict.fromkeys(models), model, "model")
        _entries(profiles, f"training.{model}")
        for name in profiles:
            with _correct(f"training.{model}"):
                known(data["profiles"], name, "profile")
            plan(model, name, data)


def _experiment(name: str, data: Mapping[str, Any]) -> None:
    """A block with cases, and all that they name."""
    module = _module(name)
    _true_or_false(data[name], name)
    block = section((name,), module.Experiment, data)
    for role in ROLES:
        if hasattr(block, role):
            with _correct(f"{name}.{role}"):
                _model(getattr(block, role), role)
    if hasattr(block, "benchmark"):
        with _correct(f"{name}.benchmark"):
            load_benchmark(block.benchmark)
    if module is layout:
        _layout(block)
    elif module is ilgd:
        _ilgd(block)
    elif module is combinations:
        _combinations(block, data)
    elif module is robustness:
        _robustness(block, data)
    params = _params(module, data)
    for place, case in _cases(name, module, params, data):
        with _correct(f"{name}.{place}"):
            methods.checked(case)
            if hasattr(module, "guidance_of"):
                _together(module, params, case)


def _module(name: str) -> ModuleType:
    there = sorted(Path(__file__).parent.glob("*.py"))
    experiments = [path.stem for path in there if re.search(r"^class Experiment\b", path.read_text(), re.MULTILINE)]
    if name not in experiments:
        raise ValueError(
            f"unknown block {name!r}: use one of {', '.join([*SHARED, *experiments])}, or give it a file in "
            "helpers/experiments with a class Experiment"
        )
    return importlib.import_module(f"helpers.experiments.{name}")


def _params(module: ModuleType, data: Mapping[str, Any]) -> Params:
    """As `helpers.params.load` gives it."""
    name = data["run"]["profile"]
    shared = section(("profiles", name), Profile, data), section(("sampling",), Sampling, data)
    return Params(name, *shared, section((module.Experiment.block,), module.Experiment, data))


def _cases(name: str, module: ModuleType, params: Params, data: Mapping[str, Any]) -> Iterator[tuple[str, MethodCase]]:
    """Every case of an experiment that may name a method, those that it searches or combines among them, and where it
    stands."""
    every = getattr(module, "every_case", _own)
    try:
        yield from (found for found in every(params.experiment, data) if isinstance(found[1], MethodCase))
    except (AttributeError, KeyError, TypeError) as error:  # of plain data that no schema describes, such as a grid's
        raise ValueError(f"params.yaml is not valid; correct {name}.cases: {error}") from None


def _own(experiment: Block, data: Mapping[str, Any]) -> Iterator[tuple[str, Case]]:
    yield from ((f"cases.{name}", case) for name, case in experiment.cases.items())


def _true_or_false(value: Any, place: str) -> None:
    """`paper` wherever it stands: also 1 and "yes" would be read as true."""
    if isinstance(value, list):
        for k, inner in enumerate(value):
            _true_or_false(inner, f"{place}[{k}]")
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if key == "paper":
            stated = inner if isinstance(inner, list) else [inner]
            wrong = [one for one in stated if not isinstance(one, bool | Mapping)]  # a case may have this name
            with _correct(f"{place}.paper"):
                if wrong:
                    raise ValueError(f"it is {wrong[0]!r:.40}: use true or false")
        _true_or_false(inner, f"{place}.{key}")


def _model(name: str, role: str) -> None:
    """ValueError unless it can be loaded from somewhere. A model that is not pulled yet has its name."""
    with suppress(FileNotFoundError):
        source(name, *(flow.NAMES if role == "flow" else ()))


def _backbone(name: str) -> None:
    """The same of what `load_backbone` takes."""
    folder = ROOT / name
    hub = HUB_ID.fullmatch(name) and not folder.parent.is_dir()
    if name not in NAMED and not hub and not (folder / "model_index.json").is_file():
        raise ValueError(
            f"unknown backbone {name!r}: use one of {', '.join(NAMED)}, a folder with a model_index.json, or a Hub id "
            "'owner/name'"
        )


def _together(module: ModuleType, params: Params, case: MethodCase) -> None:
    """ValueError unless the sampler takes what a case is drawn with."""
    nets = getattr(module, "Nets", None)
    unloaded = nets and nets(**dict.fromkeys(one.name for one in fields(nets)))
    try:
        made = module.guidance_of(params, case, (), unloaded)
    except TypeError as error:  # what a method cannot do without
        named = " and ".join(stated.method for stated in case.methods)
        raise ValueError(f"{named}: {error}: name a method that needs only what this experiment gives") from None
    loop._methods(made)  # the check of the sampler itself, which needs no model


def _layout(block: layout.Experiment) -> None:
    for name in block.cases:
        with _correct(f"layout.cases.{name}"):
            if name.endswith("_tuned"):
                raise ValueError("_tuned is what the search adds to the name of a case: name this one otherwise")
    for name, tried in block.search.items():
        for k, settings in enumerate(tried):
            _varies(settings, f"layout.search.{name}[{k}]")


def _ilgd(block: ilgd.Experiment) -> None:
    for name, ablation in block.cases.items():
        for part in ("settings", "grid"):
            _varies(getattr(ablation, part), f"ilgd.cases.{name}.{part}")
        for key, allowed in {"split": load_benchmark(block.benchmark).SPLITS, "layout": ("boxes", "masks")}.items():
            with _correct(f"ilgd.cases.{name}.grid.{key}"):
                wrong = next((value for value in ablation.grid.get(key, ()) if value not in allowed), None)
                if wrong is not None:
                    raise ValueError(f"unknown {key} {wrong!r}: use one of {', '.join(allowed)}")


def _varies(settings: Mapping[str, Any], place: str) -> None:
    """A search or an ablation varies settings of a case's method: with another one its results bear a wrong name."""
    with _correct(place):
        own = next((name for name in OWN if name in settings), None)
        if own:
            raise ValueError(f"{own} is the case's own ({settings[own]!r:.40}): leave it out, or add a case")


def _combinations(block: combinations.Experiment, data: Mapping[str, Any]) -> None:
    drawn = (_params(module, data) for module in (dca, dga, dma))
    modules = combinations.Modules(*drawn, dca.Nets(None, None, None), None, dma.Nets(None, None, None))
    for name, case in block.cases.items():
        with _correct(f"combinations.cases.{name}"):
            twice = next((module for module in case.modules if case.modules.count(module) > 1), None)
            if twice:
                raise ValueError(f"modules {list(case.modules)} names {twice!r} twice: name it once")
            if case.weights == "paper" and not case.modules:
                raise ValueError("modules [] has nothing that `weights: paper` weighs: name modules, or leave it out")
            try:
                loop._methods(combinations.guidance_of(case, (), modules))
            except TypeError as error:  # a method without a strength cannot be weighed as the paper does
                raise ValueError(f"modules {list(case.modules)} as `weights: paper` sets them: {error}") from None


def _robustness(block: robustness.Experiment, data: Mapping[str, Any]) -> None:
    for name, curve in block.cases.items():
        with _correct(f"robustness.cases.{name}"):
            params = _params(robustness.EXPERIMENTS[curve.module], data)
            for needed in ("full", "none"):
                params.case(needed)


if __name__ == "__main__":
    check()
