"""How every notebook looks on disk."""

import ast
import tomllib

import nbformat
import pytest
from test_lessons import LESSONS

from helpers.paths import ROOT

PATHS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
ALLOWED = {
    "sources",
    "case",
    "profile",
    "seed",
    "out",
    "folder",
    "start",
    "steps",
    "pictures",
    "prompt",
    "candidates",
}  # names of parameters that a notebook may have


@pytest.fixture(params=PATHS, ids=[p.relative_to(ROOT / "notebooks").as_posix() for p in PATHS])
def notebook(request):
    return nbformat.read(request.param, as_version=nbformat.NO_CONVERT)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def test_every_notebook_is_run():
    """By a stage, in tests/pipeline/test_dag.py, by tests/test_lessons.py, or by nbval."""
    paths = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
    stages = (ROOT / "dvc.yaml").read_text()
    for path in PATHS:
        name = path.relative_to(ROOT).as_posix()
        by_stage = name in stages and "/train/" not in name  # which are frozen
        by_nbval = any(name.startswith(place) for place in paths)
        assert by_stage + by_nbval + (path in LESSONS) == 1, f"{name}: once, by a stage, by nbval or as a lesson"


def test_there_are_notebooks():
    assert len(PATHS) >= 8


def test_format(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"


def test_no_outputs_are_stored(notebook):
    for cell in code(notebook):
        assert cell.execution_count is None
        assert not cell.outputs or "keep_output" in tags(cell), cell.source


def test_one_parameters_cell_of_annotated_literals(notebook):
    cells = [cell for cell in code(notebook) if "parameters" in tags(cell)]
    assert len(cells) == 1
    body = ast.parse(cells[0].source).body
    assert 1 <= len(body) <= 6
    assert all(isinstance(line, ast.AnnAssign) and isinstance(line.value, ast.Constant) for line in body)
    values = {line.target.id: line.value.value for line in body}
    assert set(values) <= ALLOWED
    assert values.get("profile", "smoke") == "smoke", "the committed default is the profile that takes seconds"


def test_cells_are_short(notebook):
    lengths = [len(cell.source.splitlines()) for cell in code(notebook)]
    assert max(lengths) <= 25
    assert sum(n <= 10 for n in lengths) >= 0.6 * len(lengths)


def test_skeleton(notebook):
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert text[0].startswith("# ") and len(text[0].splitlines()) > 1, "a title and one sentence that claims something"
    whole = "\n".join(text)
    for heading in ("**What you will see**", "**Needs**", "## Takeaway", "**Try it yourself**", "**References**"):
        assert heading in whole, heading


def test_parameters_are_checked_before_any_work(notebook):
    cells = code(notebook)
    at = next(k for k, cell in enumerate(cells) if "parameters" in tags(cell))
    lines = cells[at + 1].source.splitlines()
    assert lines[0] == "check_parameters()"
    if "out: str" in cells[at].source:
        assert lines[1].startswith("folder = output(out")
        assert not any("out" in cell.source.split() for cell in cells[at + 2 :]), "out is used only through folder"
