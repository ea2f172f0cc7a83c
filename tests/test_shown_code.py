"""Code that an experiment's text shows is the code that runs."""

import ast
import re

import nbformat
import pytest

from helpers.paths import ROOT

FENCED = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHOWN = {
    path.stem: "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    for path in sorted((ROOT / "notebooks" / "experiments").glob("*.ipynb"))
}


def bare(function: ast.FunctionDef) -> str:
    """Without docstring and annotations."""
    for part in ast.walk(function):
        if isinstance(part, ast.arg):
            part.annotation = None
    function.returns = None
    function.body = function.body[bool(ast.get_docstring(function)) :]
    return ast.dump(function)


def functions(code: str) -> dict[str, str]:
    return {node.name: bare(node) for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", [name for name, text in SHOWN.items() if FENCED.search(text)])
def test_it_is_that_of_the_file_that_is_named(name):
    named = {path: functions((ROOT / path).read_text()) for path in re.findall(r"helpers/[\w/]+\.py", SHOWN[name])}
    for block in FENCED.findall(SHOWN[name]):
        assert functions(block), block
        assert any(functions(block).items() <= found.items() for found in named.values()), f"{name}: {block}"


def test_formulas_that_are_short_have_their_code_beside_them():
    assert {name for name, text in SHOWN.items() if FENCED.search(text)} >= {"dca", "dga", "dma", "layout", "sbpc"}
