"""Keys of code: what changes them and what does not, which files they are made of; who may import whom."""

import ast
import json
import re

import pytest
import yaml
from importlinter.cli import lint_imports

from helpers.params import read
from helpers.paths import ROOT
from helpers.pipeline import fingerprint
from helpers.pipeline.fingerprint import closure, code_of, digest, keys, named_in, sources

PARAMS = read()
FILES = {".".join(path): {file.relative_to(ROOT).as_posix() for file in files} for path, files in sources(PARAMS)}

CODE = '''"""A module."""

import math  # for pi


class Circle:
    """A circle."""

    def area(self, radius: float) -> float:
        """In square units."""
        return math.pi * radius**2
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""\n', ""),
        ('"""A circle."""', '"""Another."""'),
        ("  # for pi", ""),
        ("        return", "\n        # why\n        return"),
        ("math.pi * radius**2", "(math.pi * radius ** 2)"),
    ],
)
def test_texts_and_layout_are_no_code(old, new):
    assert old in CODE
    assert code_of("a.py", CODE.replace(old, new)) == code_of("a.py", CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("radius**2", "radius**3"),
        ("import math", "import cmath as math"),
        ("float:", "int:"),
        ("return math.pi", "return None and math.pi"),
    ],
)
def test_everything_else_is(old, new):
    assert old in CODE
    assert code_of("a.py", CODE.replace(old, new)) != code_of("a.py", CODE)


def test_constants_are_told_apart():
    values = ("None", "0", "0.0", "False", "''", "b''", "...", "[]", "()", "{}")
    assert len({code_of("a.py", f"x = {value}") for value in values}) == len(values)


def notebook(*cells: tuple[str, str], **metadata) -> str:
    made = [{"cell_type": kind, "source": text.splitlines(True), "outputs": [], "metadata": {}} for kind, text in cells]
    return json.dumps({"cells": made, "metadata": metadata})


def test_a_notebook_is_its_code_cells():
    plain = code_of("a.ipynb", notebook(("code", "x = 1")))
    told = notebook(("markdown", "# Title"), ("code", "%matplotlib inline\nx = 1  # one\n!ls"), kernelspec="python3")
    assert code_of("a.ipynb", told) == plain
    assert code_of("a.ipynb", notebook(("code", "x = 2"))) != plain


def test_requirements_are_their_pins():
    assert code_of("requirements.txt", "# all\ntorch==2 # of everything\n\n") == "torch==2"


def test_a_pin_of_the_interface_re_runs_nothing():
    pins = "torch==2\n{}numpy==2 # arrays\n"
    with_one = pins.format("anywidget==1 # interface: a canvas\n")
    assert code_of("requirements.txt", with_one) == code_of("requirements.txt", pins.format(""))
    other = pins.format("anywidget==1 # not the interface\n")
    assert code_of("requirements.txt", other) != code_of("requirements.txt", pins.format(""))


def test_digests_are_text_for_yaml():
    found = {digest(str(n)) for n in range(200)}
    assert len(found) == 200 and all(yaml.safe_load(value) == value and value.startswith("h") for value in found)


def test_a_closure_holds_packages_and_what_they_import():
    found = closure({"helpers.guidance.dga"})
    assert {"helpers", "helpers.guidance", "helpers.sampling.hooks", "helpers.sampling.strength"} <= found
    assert "helpers.guidance.dma" not in found


def test_methods_are_found_wherever_they_are_named():
    asked = {"method": "boxdiff", "then": [{"method": "none"}, {"beside": {"method": "dga"}}], "guide": "dma"}
    asked["benchmark"] = "miniature"
    named = {f"helpers.guidance.{name}" for name in ("boxdiff", "dga")}
    assert named_in(asked) == {*named, "helpers.benchmarks.miniature"}
    assert named_in({"method": 3}) == named_in("boxdiff") == set()


def test_a_case_is_made_of_its_notebook_and_of_the_methods_that_it_names():
    case = FILES["cases.layout.boxdiff"]
    assert {"notebooks/experiments/layout.ipynb", "helpers/guidance/boxdiff.py", "requirements.txt"} <= case
    assert FILES["cases.layout_search.boxdiff"] > {"notebooks/experiments/layout_search.ipynb"}
    assert not [file for file in FILES["cases.dga.full"] if "metrics" in file or "reports" in file or "dma" in file]
    assert not {"helpers/guidance/ilgd.py", "helpers/guidance/boxdiff.py"} & FILES["cases.layout.none"]
    assert {f"helpers/guidance/{name}.py" for name in ("ilgd", "dga")} <= FILES["cases.layout.ilgd_dga"], "beside"
    assert {f"helpers/guidance/{name}.py" for name in ("ilgd", "dga")} <= FILES["cases.ilgd.many"], "of named cases"


def test_keys_are_nested_and_settings_follow_what_they_are_like():
    found = keys(PARAMS)
    assert found["modules"]["pipeline"]["score"].startswith("h") and found["notebooks"]["start"]["quickstart"]
    assert set(found["settings"]["layout"]) == set(PARAMS["layout"]["cases"])
    changed = read()
    changed["dca"]["cases"]["full"]["weight"] = 1.0  # after `like` was resolved: of this case alone
    other = keys(changed)
    assert {path for path in flat(found) if flat(found)[path] != flat(other)[path]} == {"settings.dca.full"}
    assert found == keys(read()), "nothing else enters"


def flat(values, path=""):
    if not isinstance(values, dict):
        return {path: values}
    return {k: v for name, inner in values.items() for k, v in flat(inner, f"{path}.{name}".strip(".")).items()}


def test_a_model_is_its_name_and_its_files(monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprint, "MODELS", tmp_path)

    def key(name):
        return dict(fingerprint.models({"dga": {"guide": name}}))["models", "dga", "guide"]

    hub = key("CIDAS/clipseg-rd64-refined")
    assert key("CIDAS/clipseg-rd64-refined@main") != hub
    (tmp_path / "mine").mkdir()
    empty = key("mine")
    (tmp_path / "mine" / "weights").write_text("1")
    one = key("mine")
    (tmp_path / "mine" / "weights").write_text("2")
    assert len({empty, one, key("mine")}) == 3


def test_why_names_the_files_and_those_that_changed(capsys):
    fingerprint.main("--why", "dga.full")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "cases.dga.full: made of" and "  helpers/guidance/dga.py" in said
    fingerprint.main("--why", "dga.full", "--since", "HEAD")
    assert capsys.readouterr().out.startswith("cases.dga.full: changed since HEAD")
    with pytest.raises(ValueError, match="no key of code.yaml ends in 'dga.ful'"):
        fingerprint.main("--why", "dga.ful")


@pytest.mark.parametrize("name", ["nocommit", "HEAD~999999", "0" * 40, "HEAD:helpers", "--all", "a b"])
def test_a_commit_that_there_is_not_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"there is no commit {name!r}: name one that `git log")):
        fingerprint.main("--why", "dga.full", f"--since={name}")


def test_since_without_why_writes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprint, "CODE", tmp_path / "code.yaml")
    with pytest.raises(SystemExit):
        fingerprint.main("--since", "HEAD")
    assert "--since HEAD says since when, not of what: add --why NAME" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("block", "change", "said"),
    [
        *(("dga", {"cases": value}, f"dga.cases is {value!r}: state each case as") for value in (None, 7, ["none"])),
        ("ilgd", {"cases_of": "layuot"}, "ilgd.cases_of names 'layuot', no block with cases: use one of dga, dca,"),
        ("ilgd", {"cases_of": "sampling"}, "ilgd.cases_of names 'sampling', no block with cases"),
        ("ilgd", {"cases_of": None}, "ilgd.cases_of names None, no block with cases"),
        ("ilgd", {"cases_of": ["layout"]}, "ilgd.cases_of names ['layout'], no block with cases"),
        ("layout", {"cases": None}, "layout.cases is None: state each case as"),
    ],
)
def test_cases_that_are_none_are_named(block, change, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        keys(PARAMS | {block: PARAMS[block] | change})


def test_code_yaml_is_of_this_checkout():
    assert yaml.safe_load((ROOT / "code.yaml").read_text()) == keys(read()), "run `dvc repro code` and commit code.yaml"


def test_stages_name_keys_that_exist():
    known = set(flat(keys(PARAMS)))
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        cases = PARAMS[stage["foreach"][2:-1].split(".")[0]] if "foreach" in stage else {}
        mapping = stage.get("foreach", "${.none}")[2:-1].split(".")[1]
        for entry in stage.get("do", stage).get("params", []):
            for key in entry.get("code.yaml", []) if isinstance(entry, dict) else []:
                key = key.replace("${dga.sweep.case}", PARAMS["dga"]["sweep"]["case"])
                key = re.sub(r"\$\{(\w+)\.benchmark\}", lambda found: PARAMS[found[1]]["benchmark"], key)
                for case in cases.get(mapping, [""]):
                    asked = key.replace("${key}", case)
                    assert any(k == asked or k.startswith(asked + ".") for k in known), (name, asked)


def test_helpers_import_helpers_at_the_top_only():
    """Where a method is loaded by name its case names it; any other import inside a function is seen by grimp, too, but
    costs the first call what belongs to the start."""
    for path in (ROOT / "helpers").rglob("*.py"):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        inner = [node for f in functions for node in ast.walk(f) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not [node.lineno for node in inner if "helpers" in ast.unparse(node)], path


def test_no_judge_guides(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports() == 0
