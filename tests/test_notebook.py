"""Parameters that a notebook does not have: refused under papermill, of no concern elsewhere."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from helpers import notebook
from helpers.paths import ROOT

IMPORT = "from helpers.notebook import check_parameters"
PARAMETERS = 'case: str = "full"  # a name\nseed: int = 0'
CHECK = "check_parameters()\nprint(case, seed)"


def run(folder: Path, *parameters: str) -> subprocess.CompletedProcess:
    cells = [new_code_cell(IMPORT), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(CHECK)]
    nbformat.write(new_notebook(cells=cells), folder / "tiny.ipynb")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3", "-l", "python"]
    for name, value in zip(parameters[::2], parameters[1::2]):
        command += ["-p", name, value]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, "tiny.ipynb", "done.ipynb"], cwd=folder, env=env, text=True, capture_output=True)


def test_a_typo_ends_the_run_and_says_what_there_is(tmp_path):
    done = run(tmp_path, "case", "none", "sed", "3")
    assert done.returncode != 0
    assert "this notebook has no parameter 'sed': it takes case, seed (papermill -p NAME VALUE)" in done.stderr


@pytest.mark.parametrize(("parameters", "printed"), [((), "full 0"), (("seed", "3", "case", "'# x'"), "'# x' 3")])
def test_known_ones_and_none_run(tmp_path, parameters, printed):
    done = run(tmp_path, *parameters)
    assert done.returncode == 0, done.stderr
    assert nbformat.read(tmp_path / "done.ipynb", 4).cells[-1].outputs[0].text.strip() == printed


@pytest.mark.parametrize(
    "cells",
    [
        ["", IMPORT, PARAMETERS, CHECK],
        ["", IMPORT, "# Parameters\ncases = 1\n", CHECK],  # the injected cell alone was run again
        ["", "def broken(:", "# Parameters\ncases = 1\n", CHECK],
        ["", PARAMETERS, "cases = 1", CHECK],  # a person's own cell
    ],
)
def test_in_a_session_a_persons_own_cells_do_not_matter(monkeypatch, cells):
    monkeypatch.setattr(notebook, "get_ipython", lambda: SimpleNamespace(user_ns={"In": cells}))
    notebook.check_parameters()


def test_an_executed_notebook_is_checked_when_it_is_run_again(monkeypatch):
    cells = ["", "x = 1", PARAMETERS, "# Parameters\ncases = 1\n", CHECK]
    monkeypatch.setattr(notebook, "get_ipython", lambda: SimpleNamespace(user_ns={"In": cells}))
    with pytest.raises(ValueError, match="no parameter 'cases': it takes case, seed"):
        notebook.check_parameters()
    monkeypatch.setattr(notebook, "get_ipython", lambda: None)
    notebook.check_parameters()
