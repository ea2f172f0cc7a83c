"""params.yaml as frozen, validated data: the loader, and the types that all experiments share.

    params = load(Experiment, "smoke")     # the schema of an experiment is its own: helpers/experiments/<name>.py
    case = params.case("full")

Unknown names, repeated keys and values out of range are refused with the name, the value and the cure. A case may say
`like: full` and state only what differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from helpers.paths import ROOT

PATH = ROOT / "params.yaml"
NAME = r"^[a-z0-9]+(_[a-z0-9]+)*$"


def _guides(name: str) -> str:
    if Path(name).name.startswith("judge"):
        raise ValueError(f"{name!r} scores the results, so it must not steer them: name another model")
    return name


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Weight = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1e6)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=1e6)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
Name = Annotated[str, Field(strict=True, pattern=NAME)]  # of cases and methods: safe as the name of a folder
Guide = Annotated[
    str, Field(strict=True, min_length=1), AfterValidator(_guides)
]  # a model in models/, a folder, a Hub id
Images = Literal["headline", "ablation", "subset", "curve"]


class Block(BaseModel):
    """A part of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Profile(Block):
    """How much work: solver steps, images at a time, and how many benchmark cases each kind of case gets.

    The first `showcase` images of a case are traced, all in its first batch. perception: held-out scenes on which the
    models that guide are measured. quality: pictures to which the head of clip_iqa is fitted.
    """

    steps: Annotated[int, Field(strict=True, ge=2, le=1000)]
    batch: Annotated[int, Field(strict=True, ge=1, le=1024)]
    headline: Annotated[int, Field(strict=True, ge=1, le=200)]
    ablation: Annotated[int, Field(strict=True, ge=1, le=200)]
    subset: Annotated[int, Field(strict=True, ge=1, le=128)]
    curve: Annotated[int, Field(strict=True, ge=1, le=80)]
    sweep: Annotated[int, Field(strict=True, ge=1, le=64)]
    showcase: Annotated[int, Field(strict=True, ge=1, le=8)]
    perception: Annotated[int, Field(strict=True, ge=8, le=1000)]
    quality: Annotated[int, Field(strict=True, ge=40, le=4000)]

    @model_validator(mode="after")
    def _one_batch(self):
        if self.showcase > self.batch:
            raise ValueError(f"showcase={self.showcase} is more than batch={self.batch}: raise batch or lower showcase")
        return self


class Sampling(Block):
    """backbone: a name, folder or Hub id that `load_backbone` takes. cfg_scale: 1 is the plain prompt."""

    backbone: str = Field(strict=True, min_length=1)
    cfg_scale: Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=100)]


class Case(Block):
    """A named set of values. images: which count of the profile applies. baseline: the case it is compared with."""

    images: Images
    baseline: Name = "none"


class Stated(Block):
    """A method by its name, and those of its settings that are not its defaults, or (`paper`) its paper's values; the
    method itself checks them, see `helpers.experiments.methods`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    method: Name
    paper: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra)


class MethodCase(Case):
    """A case that names a method and states settings of it beside its own; without a method it is unguided.

    paper: the other settings are the paper's values, not the method's defaults. beside: a second method that acts in
    the same run.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    method: Name | None = None
    paper: bool = False
    beside: Stated | None = None

    @model_validator(mode="after")
    def _unguided_has_no_settings(self):
        if self.method is None and (self.model_extra or self.beside or self.paper):
            stated = ", ".join([*self.model_extra, *(name for name in ("beside", "paper") if getattr(self, name))])
            raise ValueError(f"a case without a method is unguided: leave out {stated}, or name the method")
        return self

    @property
    def methods(self) -> list[Stated]:
        """What acts: no, one or two methods."""
        own = [] if self.method is None else [Stated(method=self.method, paper=self.paper, **self.model_extra)]
        return own + ([self.beside] if self.beside else [])

    def stating(self, **settings: Any) -> "MethodCase":
        """The same case with other settings of its method."""
        return type(self).model_validate(self.model_dump() | settings)


C = TypeVar("C", bound=Case)


class Experiment(Block):
    """A block of params.yaml with named cases. block: its name there. benchmark: whose items are drawn, a file of
    helpers/benchmarks."""

    block: ClassVar[str]
    benchmark: Name
    cases: dict[Name, Case]

    @model_validator(mode="after")
    def _names_exist(self):
        for name, case in self.cases.items():
            if case.baseline not in self.cases:
                raise ValueError(f"the case {name!r} is compared with {case.baseline!r}, which is no case: add it")
        return self


E = TypeVar("E", bound=Block)


@dataclass(frozen=True)
class Params(Generic[E]):
    """What one stage reads: how much work, how everything is sampled, and one experiment's block. name: the profile."""

    name: str
    profile: Profile
    sampling: Sampling
    experiment: E

    def case(self, name: str) -> Any:
        """A case of the experiment; ValueError naming the known ones."""
        return known(self.experiment.cases, name, "case")

    def count(self, case: Case) -> int:
        """How many benchmark cases a case is run on."""
        return getattr(self.profile, case.images)


def load(kind: type[E] | None = None, profile: str | None = None, path: Path = PATH) -> Params[E]:
    """The block of an experiment (`kind.block`), None for none, under a profile, None for the one that the file names.

    ValueError names the entry, its value and the cure.
    """
    data = read(path)
    name = profile or known(known(data, "run", "block"), "profile", "entry of run")
    return Params(
        name,
        section(("profiles", name), Profile, data, path),
        section(("sampling",), Sampling, data, path),
        section((kind.block,), kind, data, path) if kind else None,
    )


def section(place: tuple[str, ...], kind: type[E], data: Mapping | None = None, path: Path = PATH) -> E:
    """One block of the file, checked: section(("training", "clip", "smoke"), Plan)."""
    found = read(path) if data is None else data
    for n, key in enumerate(place):
        found = known(found, key, "profile" if place[0] == "profiles" and n else "block")
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, (*place, *e['loc'])))}: {e['msg']} (got {e['input']!r:.60})" for e in error.errors()
        ]
        raise ValueError(f"{path.name} is not valid; correct these entries:\n" + "\n".join(lines)) from None


def known(stated: Mapping[str, Any], name: str, kind: str) -> Any:
    """stated[name]; ValueError naming what there is."""
    if not isinstance(stated, Mapping):
        raise ValueError(f"there is no {kind} {name!r} in {stated!r:.40}: state it as `{name}: ...`")
    if name not in stated:
        raise ValueError(f"unknown {kind} {name!r}: use one of {', '.join(map(str, stated))}")
    return stated[name]


class _Loader(yaml.SafeLoader):
    """Refuses a key that is stated twice, where YAML would let the last one win."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is a name", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is stated twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path = PATH) -> dict[str, Any]:
    """The file as plain data, every `like` resolved. ValueError for what is no such file."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: run `git checkout {path.name}`") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} holds {data!r:.40}, no blocks: run `git checkout {path.name}`")
    return {name: _resolved(block, name) for name, block in data.items()}


def _resolved(block: Any, name: str) -> Any:
    if not isinstance(block, dict) or not isinstance(block.get("cases"), dict):
        return block
    cases = block["cases"]

    def full(case: str, seen: tuple[str, ...] = ()) -> Any:
        own = cases[case]
        if not isinstance(own, dict) or "like" not in own:
            return own
        other = own["like"]
        if other not in list(cases) or other in (*seen, case):
            raise ValueError(f"{name}.cases.{case}.like: {other!r} is no other case; use one of {', '.join(cases)}")
        return full(other, (*seen, case)) | {key: value for key, value in own.items() if key != "like"}

    return block | {"cases": {case: full(case) for case in cases}}
