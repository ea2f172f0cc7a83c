"""The page of the library: what is public in helpers, from its own docstrings, without importing it."""

import ast
from pathlib import Path

from helpers.paths import ROOT

SHOWN = ("conditions.py", "backbones", "sampling", "guidance", "perception", "judges", "metrics", "benchmarks",
         "factor_graph", "widgets")  # fmt: skip


def modules() -> list[Path]:
    """Files of helpers that a user of the library would import, in the order of `SHOWN`."""
    found = []
    for name in SHOWN:
        place = ROOT / "helpers" / name
        found += [place] if place.is_file() else sorted(place.glob("*.py"))
    return [path for path in found if path.name != "__init__.py"]


def markdown(path: Path) -> str:
    """One module: its docstring, then its public classes with their methods and its functions."""
    tree = ast.parse(path.read_text())
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    parts = [f"## {name}", _doc(tree)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            parts += [f"### {node.name}", _code(_signature(node)), _doc(node)]
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            parts += [f"### class {node.name}", _code(_class(node)), _doc(node)]
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_") and ast.get_docstring(inner):
                    parts += [_code(_signature(inner)), _doc(inner)]
    return "\n\n".join(part for part in parts if part)


def _doc(node) -> str:
    """As it stands: formulas in docstrings are drawn with spaces."""
    text = ast.get_docstring(node)
    return f"```text\n{text}\n```" if text else ""


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    decorators = "".join(f"@{name}\n" for name in map(ast.unparse, node.decorator_list) if name in _TOLD)
    return f"{decorators}def {node.name}({ast.unparse(node.args)}){returns}"


_TOLD = ("property", "classmethod", "staticmethod", "cached_property")


def _class(node: ast.ClassDef) -> str:
    """Its name, what it is made from, and the fields of a dataclass."""
    bases = ", ".join(map(ast.unparse, node.bases))
    fields = [f"    {ast.unparse(line)}" for line in node.body if isinstance(line, ast.AnnAssign)]
    return "\n".join([f"class {node.name}({bases}):" if bases else f"class {node.name}:", *fields])
