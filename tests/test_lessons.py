"""Every lesson runs from its first cell to its last, with what the reader has to write left as it is, then solved, and
every check that it makes holds: at half its steps, for the tests' time (the site's pages are of the full run)."""

import nbformat
import pytest
from nbclient import NotebookClient

from helpers.paths import ROOT
from helpers.site.execute import stated

LESSONS = sorted((ROOT / "notebooks" / "learn").glob("*.ipynb"))
FEWER = {"steps": 10, "pictures": 2, "candidates": 4}  # in the place of 20, 4 and 8
WHOLE = ("gradient", "miniature")  # whose steps cost little, and are needed


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_it_runs(path):
    lesson = nbformat.read(path, as_version=4)
    (own,) = [cell.source for cell in lesson.cells if "parameters" in cell.metadata.get("tags", [])]
    asked = {name: value for name, value in FEWER.items() if f"{name}:" in own and path.stem not in WHOLE}
    client = NotebookClient(stated(lesson, asked), timeout=600, resources={"metadata": {"path": path.parent}})
    client.execute()
