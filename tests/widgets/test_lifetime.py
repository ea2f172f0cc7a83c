"""What all explorers promise: closing frees, running a cell again keeps the choices, a step is fast, SVG, no pyplot."""

import ast
import gc
import time
import weakref
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from attention_traces import EARLY, LAYOUT, ONE
from attention_traces import record as attention_record
from attention_traces import trace as attention_trace
from dga_traces import ASKED
from dga_traces import record as dga_record
from flow_traces import ARRIVED, GUIDED, drag
from flow_traces import record as flow_record
from flow_traces import trace as flow_trace
from ipywidgets.widgets.widget import _instances

from helpers.paths import ROOT
from helpers.widgets import common, export, lifetime
from helpers.widgets.attention import explore_attention
from helpers.widgets.flow import explore_flow
from helpers.widgets.lifetime import Explorer, close_all, reopened, restore
from helpers.widgets.masks import explore_masks
from helpers.widgets.steps import explore_steps

KINDS = ("attention", "flow", "masks", "steps")


@pytest.fixture(scope="module")
def masks_traces(tiny, segmenter):
    return {case: dga_record(tiny, segmenter, *asked) for case, asked in ASKED.items()}


@pytest.fixture(params=KINDS)
def opened(request, masks_traces):
    """An explorer's kind, its function, and Traces of two prompts and more methods than one."""
    if request.param == "attention":
        within = {"none": [0.1, 0.12] * 5, "ilgd": EARLY, "both": EARLY}
        traces = {
            case: attention_trace(case, attention_record(LAYOUT, 0.1, share), attention_record(ONE, 0.05, share[::-1]))
            for case, share in within.items()
        }
        return "attention", explore_attention, traces
    if request.param == "flow":
        drags = drag(), drag((-4, 20), prompt="a blue ball")
        traces = {
            case: flow_trace(GUIDED[case], flow_record(share, drags[0]), flow_record(share[::-1], drags[1]))
            for case, share in ARRIVED.items()
        }
        return "flow", explore_flow, traces
    return request.param, {"masks": explore_masks, "steps": explore_steps}[request.param], masks_traces


@pytest.fixture
def run(monkeypatch):
    """Makes what follows a run of a cell of JupyterLab."""
    monkeypatch.setattr(lifetime, "_opened", {})

    def runs(cell, number):
        for module in ("attention", "flow", "masks", "steps"):
            monkeypatch.setattr(f"helpers.widgets.{module}.cell", lambda: (cell, f"run {number}"))

    return runs


def move(explorer, **choices):
    for name, value in choices.items():
        explorer.controls[name].value = value


# --- closing ---------------------------------------------------------------------------------------------------------


def test_closing_an_explorer_frees_its_widgets_and_pictures(opened):
    _, explore, traces = opened
    before = set(_instances)
    explorer = explore(traces)
    move(explorer, step=3, prompt=1)
    assert len(set(_instances) - before) > 20
    explorer.close()
    assert set(_instances) == before, [type(_instances[key]) for key in set(_instances) - before]
    explorer.close()  # twice is once


def test_the_pictures_of_a_closed_explorer_are_forgotten():
    """Also while a notebook's Out still holds the widget itself."""

    class Picture(bytes):
        pass

    remembered = {}
    picture = Picture(b"png")
    remembered["frames"] = picture
    explorer = Explorer([widgets.Label("a")], {}, forget=remembered.clear)
    alive = weakref.ref(explorer.children[0])
    explorer.close()
    gc.collect()
    assert remembered == {} and alive() is None


def test_what_is_closed_is_not_observed_any_more():
    heard, box = [], widgets.HBox([widgets.IntSlider()])
    slider = box.children[0]
    slider.observe(heard.append, "value")
    close_all(box)
    slider.value = 3
    assert heard == [] and slider.comm is None and slider.layout.comm is None and slider.style.comm is None


# --- running the cell again ------------------------------------------------------------------------------------------


def test_running_the_cell_again_keeps_the_choices(opened, run):
    kind, explore, traces = opened
    run("cell-1", 1)
    first = explore(traces)
    move(first, method=list(traces)[2], step=4, prompt=1)
    if kind == "attention":
        move(first, layer="mid, 2 x 2")
    run("cell-1", 2)
    again = explore(traces)
    assert first.comm is None and again.comm is not None, "the old one is closed"
    assert again.controls["step"].value == 4 and again.controls["prompt"].value == 1
    assert again.controls["method"].value == list(traces)[2] and "step 4 of" in again.children[2].value
    if kind == "attention":
        assert again.controls["layer"].value == "mid, 2 x 2"


def test_other_traces_keep_what_they_can(opened, run):
    _, explore, traces = opened
    run("cell-1", 1)
    move(explore(traces), method=list(traces)[2], step=4)
    run("cell-1", 2)
    fewer = explore({case: traces[case] for case in list(traces)[:2]})
    assert fewer.controls["method"].value == list(traces)[1] and fewer.controls["step"].value == 4


def test_other_cells_and_others_of_the_same_run_stay_open(opened, run):
    _, explore, traces = opened
    run("cell-1", 1)
    first, second = explore(traces), explore(traces)
    move(second, step=2)
    run("cell-2", 2)
    other = explore(traces)
    assert all(one.comm is not None for one in (first, second, other)) and other.controls["step"].value == 1
    run("cell-1", 3)
    third, fourth = explore(traces), explore(traces)
    assert first.comm is None and second.comm is None and other.comm is not None
    assert (third.controls["step"].value, fourth.controls["step"].value) == (1, 2), "each its own"


def test_outside_a_cell_nothing_is_kept():
    made = []
    explorer = reopened("kind", None, lambda before: made.append(before) or Explorer([], {}))
    reopened("kind", None, lambda before: made.append(before) or Explorer([], {}))
    assert made == [{}, {}] and explorer.comm is not None and lifetime.cell() is None


def test_a_choice_that_is_no_more_is_left_out():
    slider, choice, text = widgets.IntSlider(1, 1, 5), widgets.Dropdown(options=["a", "b"]), widgets.Text()
    restore(slider, 9)
    restore(choice, "c")
    restore(choice, None)
    restore(text, "0.5")
    assert (slider.value, choice.value, text.value) == (5, "a", "0.5")


# --- steps, figures --------------------------------------------------------------------------------------------------


def test_a_step_takes_less_than_a_tenth_of_a_second_and_no_pyplot(opened, monkeypatch):
    _, explore, traces = opened
    for name in ("figure", "subplots", "gcf", "show"):
        monkeypatch.setattr(plt, name, lambda *_, **__: pytest.fail("pyplot keeps every figure"))
    explorer, taken = explore(traces), []
    move(explorer, method=list(traces)[2], prompt=1)
    for step in (*range(2, 6), 1):
        start = time.perf_counter()
        move(explorer, step=step)
        taken.append(time.perf_counter() - start)
    assert np.median(taken) < 0.1, taken
    assert "step 1 of" in explorer.children[2].value, "counted from 1"


def test_no_file_of_the_explorers_knows_pyplot():
    for path in (ROOT / "helpers" / "widgets").glob("*.py"):
        imports = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not any("pyplot" in ast.dump(node) for node in imports), path.name


def test_what_is_shown_is_saved_as_svg(opened, tmp_path, monkeypatch):
    kind, explore, traces = opened
    monkeypatch.setattr(export, "FOLDER", tmp_path / "out")
    monkeypatch.setattr(common, "ROOT", tmp_path)
    explorer = explore(traces)
    move(explorer, step=3)
    save, written = next(row.children for row in explorer.children if _is_save(row))
    save.click()
    (path,) = (tmp_path / "out").glob("*.svg")
    assert written.value == f"written: out/{path.name}" and path.name.startswith(f"{kind}-")
    root = ElementTree.parse(path).getroot()
    name = "{http://www.w3.org/2000/svg}"
    images = root.findall(f".//{name}image")
    assert len(images) == 2 * {"attention": 2, "flow": 6, "masks": 2, "steps": 1}[kind]
    text = " ".join("".join(part.itertext()) for part in root.iter(f"{name}text"))
    assert "step 3 of" in text and explorer.controls["prompt"].label in text
    assert all(case in text for case in list(traces)[:2]) and "step" in text
    assert len(root.findall(f".//{name}path")) > 10, "curves are lines"
    shown = [line for line in path.read_text().splitlines() if "#c81e1e" in line]
    move(explorer, step=4)
    save.click()
    assert len(list((tmp_path / "out").glob("*.svg"))) == 2 and len(shown) > 0, "a file for each step"


def _is_save(row) -> bool:
    parts = getattr(row, "children", ())
    return bool(parts) and getattr(parts[0], "description", "") == "Save as SVG"


def test_names_of_cases_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "FOLDER", tmp_path)
    path = export.saved("<svg/>\n", "masks", "../../a b", "step", 3)
    assert path.parent == tmp_path and path.name == "masks-.._.._a_b-step-3.svg"
    assert Path(path).read_text() == "<svg/>\n"


def test_words_are_plain_text():
    assert export.words("<b>a &lt;b&gt;</b> & c", 0, 0).endswith(">a &lt;b&gt; &amp; c</text>")
