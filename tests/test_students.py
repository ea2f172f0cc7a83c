"""Walkthroughs and the copies that a class gets."""

import json

import pytest

from helpers import students
from helpers.students import LEARN, without_solutions, write

WALKTHROUGHS = sorted(LEARN.glob("*.ipynb"))


def cells(notebook, tag):
    return [cell for cell in notebook["cells"] if tag in cell["metadata"].get("tags", [])]


@pytest.mark.parametrize("path", WALKTHROUGHS, ids=[path.stem for path in WALKTHROUGHS])
def test_what_the_reader_writes_has_a_folded_solution_and_a_check(path):
    notebook = json.loads(path.read_text())
    kinds = ["".join(cell["metadata"].get("tags", [])) for cell in notebook["cells"]]
    asked = [k for k, kind in enumerate(kinds) if kind == "exercise"]
    assert len(asked) >= 2
    for k in asked:
        solution, rest = notebook["cells"][k + 1], notebook["cells"][k + 2 :]
        assert kinds[k + 1] == "solution" and solution["metadata"]["jupyter"]["source_hidden"]
        follows = next(cell for cell in rest if cell["cell_type"] == "code")
        assert "solution" not in follows["metadata"].get("tags", []), "what is written is used at once"
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    assert text.count("**Your turn**") == len(asked) and "## An honest failure" in text and "minutes." in text


def test_students_get_the_questions_and_not_the_answers(monkeypatch, tmp_path):
    monkeypatch.setattr(students, "output", lambda out: tmp_path / out)
    copies = write("class")
    assert [copy.name for copy in copies] == [path.name for path in WALKTHROUGHS]
    for copy, path in zip(copies, WALKTHROUGHS, strict=True):
        given, whole = json.loads(copy.read_text()), json.loads(path.read_text())
        assert cells(given, "exercise") == cells(whole, "exercise") and not cells(given, "solution")
        assert len(given["cells"]) == len(whole["cells"]) - len(cells(whole, "solution"))


def test_what_a_student_has_begun_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(students, "output", lambda out: tmp_path / out)
    (copy, *_) = write("class")
    copy.write_text("begun")
    with pytest.raises(ValueError, match="is there already, perhaps begun: move it away"):
        write("class")
    assert copy.read_text() == "begun"


def test_copies_lie_where_results_lie():
    with pytest.raises(ValueError, match="out='notebooks/learn' is no place for results"):
        write("notebooks/learn")


def test_a_notebook_without_solutions_stays_as_it_is():
    notebook = {"cells": [{"cell_type": "code", "metadata": {}, "source": "1"}], "nbformat": 4}
    assert without_solutions(notebook) == notebook
