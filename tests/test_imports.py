"""Judges stay out of guidance, and every stage of dvc.yaml depends on the very helper files that it imports."""

import ast
import json
import re
import subprocess
import sys

import pytest
import yaml
from importlinter.cli import lint_imports

from helpers.paths import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# Heavy packages, none of them ours, are loaded once; every child of the fork then starts from the same sys.modules.
PROBE = """
import json, os, pathlib, sys
import diffusers, matplotlib.pyplot, torchvision, transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline
root = pathlib.Path.cwd()
for code in json.load(sys.stdin):
    if os.fork() == 0:
        exec(code, {"__name__": "probe"})
        ours = [m for name, m in sys.modules.items() if name.split(".")[0] == "helpers" and m.__file__]
        print(json.dumps(sorted(str(pathlib.Path(m.__file__).relative_to(root)) for m in ours)), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"these imports fail: {code}")
"""


def imports_of(stage: dict) -> str | None:
    """The Python that loads what a stage loads: its notebook's import statements, or its module."""
    module = re.search(r"python -m (helpers[\w.]*)", stage["cmd"])
    if module:
        return f"import {module[1]}"
    notebook = next((dep for dep in stage["deps"] if dep.endswith(".ipynb")), None)
    if notebook is None or "{item" in notebook:
        return None
    cells = json.loads((ROOT / "notebooks" / notebook.split("/")[-1]).read_text())["cells"]
    lines = "".join("".join(c["source"]) + "\n" for c in cells if c["cell_type"] == "code")
    return "\n".join(re.findall(r"^(?:from [\w.]+ import (?:\([^)]*\)|.*)|import .*)$", lines, re.MULTILINE))


CODE = {name: code for name, stage in STAGES.items() if (code := imports_of(stage))}


@pytest.fixture(scope="module")
def loaded():
    """Stage -> the helper files in sys.modules after its imports."""
    probe = subprocess.run(
        [sys.executable, "-c", PROBE], input=json.dumps(list(CODE.values())), cwd=ROOT, capture_output=True, text=True
    )
    assert probe.returncode == 0, probe.stderr
    return dict(zip(CODE, map(json.loads, probe.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("stage", CODE)
def test_a_stage_depends_on_what_it_imports(stage, loaded):
    stated = sorted(dep for dep in STAGES[stage]["deps"] if dep.startswith("helpers"))
    assert stated == loaded[stage], f"write these as the helper deps of stage {stage!r} into dvc.yaml"


def test_helpers_import_helpers_at_the_top_only():
    """An import inside a function would escape the comparison above."""
    for path in (ROOT / "helpers").rglob("*.py"):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        inner = [node for f in functions for node in ast.walk(f) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not [node.lineno for node in inner if "helpers" in ast.unparse(node)], path


def test_no_judge_guides(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports() == 0
