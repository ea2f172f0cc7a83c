"""Which code decides which result: `python -m helpers.pipeline.fingerprint` writes code.yaml.

code.yaml holds keys that stages of dvc.yaml read as parameters, so that DVC runs a stage again when its key changes:

- modules.<package>.<module>: of a module of helpers and of all that it imports from helpers, directly or not;
- notebooks.<folder>.<name>: of a notebook's code and of all that it imports from helpers;
- cases.<notebook>.<case>: the same of the experiment's notebook, and of the methods and the benchmark that it names;
- settings.<experiment>.<case>: of all values that decide a case, those that it takes from another one included;
- models.<place>.<role>: of the model that params.yaml names there: its name, and its files if it is a folder.

Docstrings, comments, markdown, outputs and magics are not code, requirements.txt is, but for the pins that it marks as
`interface`: no stage loads those (a test watches). `--why dga.full` says which files
the keys of this name are made of, with `--since COMMIT` which of them changed since then.
"""

import argparse
import ast
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
import yaml

from helpers.files import writing
from helpers.params import read
from helpers.paths import MODELS, ROOT

CODE = ROOT / "code.yaml"
NOTEBOOKS = ROOT / "notebooks"
REQUIREMENTS = ROOT / "requirements.txt"
NAMED = {"method": "guidance", "benchmark": "benchmarks"}  # keys of params.yaml -> packages of what they name
# keys of params.yaml that name a model
ROLES = ("backbone", "guide", "detector", "flow", "clicks", "features", "segmentation", "image")
MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)
INTERFACE = re.compile(r"^.*#\s*interface\b.*$", re.MULTILINE)  # pins of what only people see


def digest(*parts: str) -> str:
    """Twelve digits behind a letter: without it YAML reads some of them as numbers."""
    return "h" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def plain(node):
    """A syntax tree as lists and dicts without docstrings and places; the same in every version of Python."""
    if isinstance(node, ast.AST):
        fields = {name: plain(value) for name, value in ast.iter_fields(node) if value is not None and value != []}
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            fields["body"] = [plain(line) for k, line in enumerate(node.body) if k or not _is_docstring(line)]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some with an empty text
            fields["values"] = [plain(part) for part in node.values if getattr(part, "value", None) != ""]
        return [type(node).__name__, fields]
    return [plain(item) for item in node] if isinstance(node, list) else repr(node)


def _is_docstring(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def code_of(path: str, text: str) -> str:
    """What of a file is code: of a notebook (.ipynb) its code cells, of requirements the pins of what may compute."""
    if path.endswith(".txt"):
        text = INTERFACE.sub("", text)
        return "\n".join(line for line in (re.sub(r"\s*#.*", "", line) for line in text.splitlines()) if line)
    if path.endswith(".ipynb"):
        text = "\n".join(cells(text))
    return json.dumps(plain(ast.parse(text)))


def cells(text: str) -> list[str]:
    """The code cells of a notebook, without magics."""
    found = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return [MAGIC.sub("", "".join(source)) for source in found]


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("helpers", cache_dir=None)


def file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def closure(modules: set[str]) -> set[str]:
    """These modules, the packages that they lie in, and everything that these import from helpers."""
    found, waiting = set(), set(modules)
    while waiting:
        module = waiting.pop()
        found.add(module)
        needed = graph().find_modules_directly_imported_by(module)
        needed |= {module.rpartition(".")[0]} - {""}
        waiting |= needed - found
    return found


def imported_by(notebook: Path) -> set[str]:
    """The modules of helpers that a notebook imports itself."""
    found = set()
    for node in ast.walk(ast.parse("\n".join(cells(notebook.read_text())))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & graph().modules


def named_in(values) -> set[str]:
    """The modules of all methods and benchmarks whose names stand anywhere in these values: {"method": "dga"} names
    helpers.guidance.dga."""
    if isinstance(values, list):
        return set().union(*map(named_in, values))
    if not isinstance(values, dict):
        return set()
    named = {f"helpers.{package}.{values[key]}" for key, package in NAMED.items() if isinstance(values.get(key), str)}
    return (named & graph().modules).union(*map(named_in, values.values()))


def experiment_of(notebook: str, params: dict) -> str | None:
    """The block of params.yaml whose cases a notebook runs: `layout` for `layout` and for `layout_search`."""
    names = [name for name, block in params.items() if isinstance(block, dict) and "cases" in block]
    fitting = [name for name in names if notebook == name or notebook.startswith(f"{name}_")]
    return max(fitting, key=len, default=None)


def _cases(params: dict, experiment: str, named: str = "params.yaml") -> dict:
    """The cases of an experiment; ValueError where it has none. named: where the experiment is named."""
    blocks = [name for name, block in params.items() if isinstance(block, dict) and "cases" in block]
    if experiment not in blocks:
        raise ValueError(f"{named} names {experiment!r:.40}, no block with cases: use one of {', '.join(blocks)}")
    cases = params[experiment]["cases"]
    if not isinstance(cases, dict):
        raise ValueError(f"{experiment}.cases is {cases!r:.40}: state each case as `name: ...`")
    return cases


def about(params: dict, experiment: str, case: str) -> list:
    """All that decides a case: what it says, what the cases of its experiment share, and the cases of another one
    (`cases_of`) that it names under `case`."""
    block = params[experiment]
    own = _cases(params, experiment)[case]
    others = _cases(params, block["cases_of"], f"{experiment}.cases_of") if "cases_of" in block else {}
    shared = {name: part for name, part in block.items() if isinstance(part, str)}
    return [shared, own, *(others[name] for name in _under("case", own) if name in others)]


def _under(key: str, values) -> list:
    """What stands anywhere in these values under a key, lists of it taken apart."""
    if isinstance(values, list):
        return [found for value in values for found in _under(key, value)]
    if not isinstance(values, dict):
        return []
    own = values.get(key, [])
    return [*(own if isinstance(own, list) else [own]), *_under(key, list(values.values()))]


def sources(params: dict) -> Iterator[tuple[tuple[str, ...], list[Path]]]:
    """Every key that is made of code alone, with the files that it is made of."""

    def files(modules: set[str], *others: Path) -> list[Path]:
        return sorted({*map(file_of, closure(modules)), *others, REQUIREMENTS})

    for module in sorted(graph().modules - {"helpers"}):
        path = module.split(".")[1:] + (["__init__"] if file_of(module).name == "__init__.py" else [])
        yield ("modules", *path), files({module})
    for notebook in sorted(NOTEBOOKS.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in notebook.parts:
            continue
        own = imported_by(notebook)
        yield ("notebooks", *notebook.relative_to(NOTEBOOKS).with_suffix("").parts), files(own, notebook)
        experiment = experiment_of(notebook.stem, params) if notebook.parent.name == "experiments" else None
        for case in _cases(params, experiment) if experiment else ():
            searched = (params[experiment].get("search") or {}).get(case, [])
            named = named_in([*about(params, experiment, case), searched])
            yield ("cases", notebook.stem, case), files(own | named, notebook)


def models(params: dict) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every model that params.yaml names, as a key of its name and, for a folder, of its files."""
    for place, block in params.items():
        for role in ROLES:
            if isinstance(block, dict) and role in block:
                name = str(block[role])
                yield ("models", place, role), digest(name, *_contents(name))


def _contents(name: str) -> list[str]:
    """Of a folder in models/ the content of every file, of another one (it may be large) names and sizes; of a name on
    the Hub nothing: it may state its revision."""
    inside = MODELS / name
    folder = inside if inside.is_dir() else ROOT / name
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        f"{path.relative_to(folder)} "
        + (hashlib.sha256(path.read_bytes()).hexdigest() if folder == inside else str(path.stat().st_size))
        for path in paths
    ]


def keys(params: dict) -> dict:
    """The content of code.yaml. params: what `helpers.params.read` gives."""

    @cache
    def own(path: Path) -> str:
        return digest(code_of(path.name, path.read_text()))

    found: dict = {}

    def put(path: tuple[str, ...], value: str) -> None:
        inner = found
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value

    for path, files in sources(params):
        put(path, digest(*(f"{file.relative_to(ROOT).as_posix()} {own(file)}" for file in files)))
    for experiment, block in params.items():
        for case in _cases(params, experiment) if isinstance(block, dict) and "cases" in block else ():
            put(("settings", experiment, case), digest(json.dumps(about(params, experiment, case), sort_keys=True)))
    for path, value in models(params):
        put(path, value)
    return found


def why(params: dict, name: str, since: str | None) -> list[str]:
    """The files of every key that ends in `name` (dots between its parts); with `since`, those that changed."""
    asked = tuple(name.split("."))
    made = {path: files for path, files in sources(params) if path[-len(asked) :] == asked}
    if not made:
        raise ValueError(f"no key of {CODE.name} ends in {name!r}: name one as it stands there, such as dga.full")
    if since:
        _check_commit(since)
    lines = []
    for path, files in made.items():
        lines.append(".".join(path) + (f": changed since {since}" if since else ": made of"))
        shown = [file.relative_to(ROOT).as_posix() for file in files]
        lines += [f"  {file}" for file in shown if not since or _changed(file, since)]
    return lines


def _check_commit(name: str) -> None:
    """ValueError where git knows none of this name: of such a one every file would count as changed."""
    asked = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    if subprocess.run(asked, cwd=ROOT, capture_output=True).returncode:
        raise ValueError(f"there is no commit {name!r}: name one that `git log --oneline` lists, a branch or a tag")


@cache
def _changed(file: str, since: str) -> bool:
    before = subprocess.run(["git", "show", f"{since}:{file}"], cwd=ROOT, capture_output=True, text=True)
    return before.returncode != 0 or code_of(file, before.stdout) != code_of(file, (ROOT / file).read_text())


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.pipeline.fingerprint", description="Writes code.yaml.")
    parser.add_argument("--why", metavar="NAME", help="say which files the keys of this name are made of")
    parser.add_argument("--since", metavar="COMMIT", help="with --why: only those that changed since then")
    asked = parser.parse_args(words)
    if asked.since and not asked.why:
        parser.error(f"--since {asked.since} says since when, not of what: add --why NAME")
    params = read()
    if asked.why:
        return print("\n".join(why(params, asked.why, asked.since)))
    with writing(CODE) as file:
        file.write(
            f"# Written by the stage `code`: see helpers/pipeline/fingerprint.py.\n{yaml.safe_dump(keys(params))}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
