"""Methods by name: a file is a method, and every case, search and ablation of params.yaml can be made of them, without
a model being loaded."""

import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from helpers.benchmarks.miniature import load_captioned
from helpers.benchmarks.miniature_combined import load_combined
from helpers.benchmarks.miniature_drags import load_drags
from helpers.experiments import combinations, dca, dga, dma, ilgd, layout, methods
from helpers.guidance.cfg import CFG
from helpers.params import MethodCase, Stated, load
from helpers.paths import ROOT
from helpers.sampling.hooks import Guidance

PARAMS = {
    kind.block: load(kind, "smoke") for kind in (m.Experiment for m in (dga, dca, dma, combinations, layout, ilgd))
}
LAYOUTS, DRAGS, COMBINED = load_captioned("dev")[:2], load_drags("dev")[:2], load_combined("dev")[:2]
CONCEPTS = dca.Nets("clip", "detector", "segmenter")
MOTION = dma.Nets("raft", "sam", "dino")
MODULES = combinations.Modules(PARAMS["dca"], PARAMS["dga"], PARAMS["dma"], CONCEPTS, "segmenter", MOTION)


def made(case: dict, **given) -> list[Guidance]:
    """What a case as it stands in params.yaml is sampled with."""
    return methods.guidance(MethodCase.model_validate({"images": "curve"} | case), 5.0, **given)


# --- a file is a method ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", methods.names())
def test_a_file_is_one_method_of_its_name(name):
    kind = methods.method(name)
    assert issubclass(kind, Guidance) and kind.__module__ == f"helpers.guidance.{name}"
    assert kind.__name__.lower() == name.replace("_", "")


def test_every_file_of_the_folder_is_found():
    assert methods.names() == sorted(
        p.stem for p in (ROOT / "helpers" / "guidance").glob("*.py") if p.stem != "__init__"
    )


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match=f"unknown method 'igld': use one of {', '.join(methods.names())}"):
        made({"method": "igld"})


def test_a_file_of_two_methods_or_none_is_refused(monkeypatch):
    class One(Guidance):
        __module__ = "helpers.guidance.two"

    class Two(One):
        __module__ = "helpers.guidance.two"

    monkeypatch.setattr(methods, "names", lambda: ["two"])
    for found, count in (([One, Two], 2), ([CFG], 0)):
        module = SimpleNamespace(__name__="helpers.guidance.two", **{kind.__name__: kind for kind in found})
        monkeypatch.setitem(sys.modules, "helpers.guidance.two", module)
        with pytest.raises(ValueError, match=f"two.py defines {count} methods: a file is one method"):
            methods.method("two")


# --- a case is a method with its settings ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in methods.names() if hasattr(methods.method(name), "paper")])
def test_without_settings_a_method_has_its_defaults_and_as_paper_its_papers(name):
    kind = methods.method(name)
    given = {"layouts": ["a"], "drags": ["b"], "segmenter": "s", "cfg_scale": 3.0} | vars(CONCEPTS) | vars(MOTION)
    for paper, meant in ((False, kind), (True, kind.paper)):
        one = methods.make(Stated(method=name, paper=paper), given)
        own = {key: value for key, value in given.items() if hasattr(one, key)}
        assert one.settings() == meant(**own).settings()
        assert all(getattr(one, key) == value for key, value in own.items()), "given what it takes, and no more"


def test_settings_of_a_case_change_those_and_nothing_else():
    early = {"start": 0.1, "stop": 0.4}
    _, plain = made({"method": "dga"}, layouts=[])
    _, turned = made({"method": "dga", "window": early, "strength": {"rule": "unit", "scale": 0.2}}, layouts=[])
    changed = {key: value for key, value in turned.settings().items() if value != plain.settings()[key]}
    assert changed["window"] == early and changed["strength"] | {"rule": "unit", "scale": 0.2} == changed["strength"]
    assert set(changed) == {"window", "strength"}


def test_cfg_is_there_unless_a_method_decides_itself():
    assert [type(m).__name__ for m in made({})] == ["CFG"] and made({})[0].cfg_scale == 5.0
    assert [m.name for m in made({"method": "dga"}, layouts=[])] == ["cfg", "dga"]
    assert [m.name for m in made({"method": "composable"}, layouts=[])] == ["composable"]
    (fused,) = made({"method": "multidiffusion"}, layouts=[])
    assert fused.cfg_scale == 5.0, "as everything else is sampled"
    assert made({"method": "multidiffusion", "cfg_scale": 7.5}, layouts=[])[0].cfg_scale == 7.5
    assert made({"method": "multidiffusion", "paper": True}, layouts=[])[0].cfg_scale == 5.0


def test_a_second_method_acts_beside_the_first():
    _, one, other = made({"method": "ilgd", "weight": 0.0, "beside": {"method": "dga", "weight": 3.0}}, layouts=["a"])
    assert (one.name, one.weight, other.name, other.weight) == ("ilgd", 0.0, "dga", 3.0)
    assert one.layouts == other.layouts == ["a"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (
            {"method": "ilgd", "scale": 1.0},
            "ILGD has no setting 'scale': use one of window, recurrence, weight, strength",
        ),
        ({"method": "boxdiff", "weight": 1.0}, "BoxDiff has no setting 'weight': use one of window"),
        (
            {"method": "composable", "prompts": []},
            "Composable has no setting 'prompts': use one of window, recurrence, scale",
        ),
        ({"method": "dga", "weight": "3e-1"}, "DGA(weight='3e-1'): a number is needed, not str"),
        ({"method": "dga", "weight": True}, "DGA(weight=True): a number is needed, not bool"),
        (
            {"method": "dga", "strength": {"rule": "unti"}},
            "there is no strength rule 'unti': use one of raw, exploding",
        ),
        ({"method": "dga", "strength": "unit 0.2"}, "DGA(strength='unit 0.2'): Strength is needed"),
        ({"method": "dga", "strength": {"rule": "unit", "scale": float("nan")}}, "use a finite number from 0 to 10000"),
        ({"method": "dga", "window": {"start": 0.5, "stop": 0.2}}, "must satisfy 0 <= start <= stop <= 1"),
        ({"method": "dga", "window": {"start": 0.5, "end": 0.2}}, "unexpected keyword argument 'end'"),
        ({"method": "dga", "recurrence": {"times": 1.5}}, "a whole number is needed"),
        ({"method": "ilgd", "loss": "pique"}, "ILGD(loss='pique'): use one of"),
        ({"method": "ilgd", "beside": {"method": "dga", "injection": 1.0}}, "DGA has no setting 'injection'"),
        ({"method": "cfg", "paper": True}, "cfg has no paper's values: leave out `paper`"),
    ],
)
def test_a_wrong_setting_is_named_with_its_cure(case, said):
    asked = MethodCase.model_validate({"images": "curve"} | case)
    with pytest.raises(ValueError, match=re.escape(said)):
        methods.checked(asked)


# --- everything in params.yaml can be made ---------------------------------------------------------------------------

CASES = [
    (block, name)
    for block in ("dga", "dca", "dma", "combinations", "layout")
    for name in PARAMS[block].experiment.cases
]


def guided(block: str, case) -> list[Guidance]:
    make = {
        "dga": lambda: dga.guidance_of(PARAMS[block], case, LAYOUTS, "segmenter"),
        "dca": lambda: dca.guidance_of(PARAMS[block], case, LAYOUTS, CONCEPTS),
        "dma": lambda: dma.guidance_of(PARAMS[block], case, DRAGS, MOTION),
        "combinations": lambda: combinations.guidance_of(case, COMBINED, MODULES),
        "layout": lambda: layout.guidance_of(PARAMS[block], case, LAYOUTS, "segmenter"),
    }
    return make[block]()


@pytest.mark.parametrize(("block", "name"), CASES)
def test_every_case_is_its_methods_with_what_it_states(block, name):
    case = PARAMS[block].case(name)
    made = guided(block, case)
    assert made and sum(one.decides for one in made) <= 1
    if block == "combinations":
        return
    by_name = {type(one): one for one in made}
    for stated in case.methods:
        one = by_name[methods.method(stated.method)]
        given = {key: value for key, value in vars(one).items() if key not in one.settings()}
        cfg = {"cfg_scale": PARAMS[block].sampling.cfg_scale} if one.decides else {}
        assert one.settings() == methods.make(stated, cfg | given).settings()


@pytest.mark.parametrize("name", PARAMS["layout"].experiment.search)
def test_every_searched_setting_is_another_one(name):
    case, seen = PARAMS["layout"].case(name), []
    for settings in PARAMS["layout"].experiment.search[name]:
        told = [one.settings() for one in guided("layout", case.stating(**settings))]
        assert told not in seen, f"{settings} is tried twice"
        seen.append(told)


@pytest.mark.parametrize("name", PARAMS["ilgd"].experiment.cases)
def test_every_point_of_an_ablation_can_be_made(name):
    found = ilgd.points(PARAMS["ilgd"].case(name), PARAMS["layout"].experiment.cases)
    assert len({point.label for point in found}) == len(found) > 1
    told = [(p.split, p.masks, p.size, [m.settings() for m in guided("layout", p.case)]) for p in found]
    assert all(told.count(one) == 1 for one in told)
    assert all(load_captioned(point.split) for point in found)


# --- the growth rule -------------------------------------------------------------------------------------------------

BRIGHTER = '''
"""Brighter: pulls every picture towards white."""

from dataclasses import dataclass

from helpers.sampling.hooks import EnergyGuidance
from helpers.sampling.settings import setting


@dataclass(frozen=True, kw_only=True, eq=False)
class Brighter(EnergyGuidance):
    level: float = setting(1.0, low=0, high=1)

    def energy(self, ctx, state):
        return (self.level - ctx.image).square().mean((1, 2, 3)), {}
'''
FOUND = """
from helpers.experiments import methods, dga
from helpers.params import load
params = load(dga.Experiment)
_, one = dga.guidance_of(params, params.case("brighter"), [], None)
print(one)
"""


def test_a_new_method_is_a_file_and_a_case(tmp_path):
    """Nothing else is touched: no list, no registry."""
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "helpers" / "guidance" / "brighter.py").write_text(BRIGHTER)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["dga"]["cases"]["brighter"] = {"images": "subset", "method": "brighter", "level": 0.75, "weight": 3.0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run = subprocess.run(
        [sys.executable, "-c", FOUND], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("Brighter(") and "level=0.75" in run.stdout and "weight=3.0" in run.stdout
