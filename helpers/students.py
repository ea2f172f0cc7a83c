"""Copies of the walkthroughs for a class, without the solutions: `python -m helpers.students`.

They are written to out/students, or to another folder below out/ that is named; what a student has begun stays.
"""

import json
import sys
from pathlib import Path

from helpers.files import output, writing
from helpers.paths import ROOT

LEARN = ROOT / "notebooks" / "learn"


def without_solutions(notebook: dict) -> dict:
    """The notebook without cells that carry the tag "solution"."""
    cells = [cell for cell in notebook["cells"] if "solution" not in cell["metadata"].get("tags", [])]
    return notebook | {"cells": cells}


def write(out: str = "out/students") -> list[Path]:
    """One copy per walkthrough. ValueError, before anything is written, for a folder that is no place for results and
    for copies that are there already."""
    folder = output(out)
    copies = {folder / path.name: path for path in sorted(LEARN.glob("*.ipynb"))}
    there = [copy for copy in copies if copy.exists()]
    if there:
        raise ValueError(f"{there[0]} is there already, perhaps begun: move it away, or name another folder")
    for copy, path in copies.items():
        with writing(copy) as file:
            file.write(json.dumps(without_solutions(json.loads(path.read_text(encoding="utf-8"))), indent=1) + "\n")
    return list(copies)


if __name__ == "__main__":
    for copy in write(*sys.argv[1:]):
        print(copy.relative_to(ROOT))
