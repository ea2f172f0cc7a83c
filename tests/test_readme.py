"""The front page: short, its numbers those of the results, its example as pasted."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.judges.loading import load_judge
from helpers.paths import FIGURES, ROOT
from helpers.pipeline.report import number

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CASES = {
    "prompt alone": "none",
    "layout guidance, tuned": "layout_guidance_tuned",
    "iLGD, tuned": "ilgd_tuned",
    "DGA": "dga",
    "iLGD with DGA": "ilgd_dga",
}
COLUMNS = {"box IoU": ("box_iou", 2), "AP@0.5": ("box_ap50", 2), "recall": ("recall", 2), "evaluations": ("nfe", 0)}


def test_the_front_page_is_short():
    assert len(TEXT.split()) <= 1600


def test_numbers_on_the_front_page_are_those_of_the_results():
    table = re.search(r"## Results\n.*?\n(\|.*?)\n\n", TEXT, re.DOTALL)[1]
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    assert [line[0] for line in lines] == list(CASES) and head[1:] == list(COLUMNS)
    layout = json.loads((FIGURES / "metrics.json").read_text())["layout"]
    for name, *cells in lines:
        numbers = (number(layout[CASES[name]][metric]["mean"], digits) for metric, digits in COLUMNS.values())
        assert cells == list(numbers), name


@pytest.mark.filterwarnings("ignore")
def test_the_example_draws_what_it_says_as_pasted(monkeypatch, tmp_path):
    block = re.search(r"## In Python\n\n```python\n(.*?)```", TEXT, re.DOTALL)[1]
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith(("from ", "import "))]
    assert len(lines) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    picture = torch.from_numpy(np.asarray(Image.open("car.png"))).permute(2, 0, 1)[None] / 255
    (car,) = load_judge("judge").recognise(picture)[0]
    x, y = (car.box[0] + car.box[2]) / 2, (car.box[1] + car.box[3]) / 2
    assert (car.kind, car.color) == ("car", "red") and x > 32 and y > 32
