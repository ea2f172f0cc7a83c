"""Every figure can be read: no text over another one, none cut, none small, with long names and many cases."""

from dataclasses import replace
from types import SimpleNamespace

import attention_traces
import numpy as np
import pandas as pd
import pytest
from drawing import curve, entry, illegible
from flow_traces import ARRIVED, GUIDED, drag, picture, record, trace
from matplotlib.figure import Figure

from helpers.conditions import Layout, Region
from helpers.figures.attention import attention_grid, overlap_plot
from helpers.figures.best_of import best_of_grid, budget_plot
from helpers.figures.combinations import cosines_plot
from helpers.figures.dots import dots_plot
from helpers.figures.grids import case_grid, combination_grid, drag_grid, prompt_grid
from helpers.figures.labels import place_labels
from helpers.figures.layout import pareto_plot, search_plot
from helpers.figures.perception import MODELS, perception_plot
from helpers.figures.plots import curves_plot, objects_plot, strength_plot, tradeoff_plot
from helpers.figures.strips import flow_strip, steps_strip
from helpers.figures.style import BASE, METHOD, titled
from helpers.figures.words import METRICS
from helpers.sampling.trace import Record, Trace

MESSAGE = "What is shown here in a message of some length with numbers such as 0.78 and 0.13 of several cases, and on"
NOTE = "mini-sd, 20 DDIM steps, CFG 5; first test prompt of every number of objects. Dashes: the box that was asked for"
LONG = (
    "a large purple moon is right of a medium purple triangle. the purple triangle is above a small orange triangle. "
    "the orange triangle is below a small striped red car. the scene is at night."
)
WIDE = Layout(
    prompt="a purple moon, a striped red car, an orange triangle and a large striped purple triangle at night",
    regions=[
        Region(phrase="purple moon", box=(0.5, 0.4, 0.9, 0.9)),
        Region(phrase="striped red car", box=(0, 0, 0.3, 0.2)),
        Region(phrase="orange triangle", box=(0.1, 0.6, 0.3, 0.9)),
        Region(phrase="large striped purple triangle", box=(0.6, 0, 1, 0.4)),
    ],
)
CASES = [f"DGA, coverage and number {k:02d}" for k in range(20)]
random = np.random.default_rng(0)


def entries(n=200, **means):
    """metric -> entry; metrics that are not given are drawn."""
    found = {name: entry(random.uniform(0.1, 0.9), random.uniform(-0.5, 0.5)) for name in METRICS}
    return {name: one | {"n": n} for name, one in (found | {name: entry(v) for name, v in means.items()}).items()}


def finals(prompts, layout=None, steps=0) -> Trace:
    """A Trace of pictures of noise."""
    made, pictures = Trace(range(len(prompts))), random.integers(0, 256, (len(prompts), 64, 64, 3), np.uint8)
    made.records = [
        Record(k, prompt, 71000 + k, layout, final=of) for k, (prompt, of) in enumerate(zip(prompts, pictures))
    ]
    made.timesteps = list(range(steps))
    return made


def judged(cases, **row):
    return {case: [row] * 8 for case in cases}


# --- the check itself ------------------------------------------------------------------------------------------------


def test_the_check_finds_what_cannot_be_read():
    fig = Figure(figsize=(8.5, 3))
    for place, said in ((0.5, "one"), (0.51, "other"), (0.99, "cut off"), (0.2, "fine")):
        fig.text(place, 0.5, said, fontsize=9)
    fig.text(0.2, 0.8, "tiny", fontsize=7)
    assert illegible(fig) == ["'one' over 'other'", "'cut off' leaves the figure", "'tiny' is small"]
    wide = Figure(figsize=(17, 3))
    wide.text(0.5, 0.5, "nine points of a figure that is made half as large", fontsize=9)
    assert len(illegible(wide)) == 1


def test_the_check_looks_at_what_is_drawn():
    fig = Figure(figsize=(8.5, 3))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(title="cut off", xlabel="this, too")
    ax.set_axis_off()
    fig.text(0.5, 0.5, "hidden", visible=False)
    fig.text(0.5, 0.5, "seen", fontsize=9)
    assert illegible(fig) == ["'cut off' leaves the figure"]


def test_crowded_points_have_names_that_do_not_meet_and_stay_inside():
    places = [(0.5 + 0.004 * k, 0.5 - 0.003 * k) for k in range(12)]
    crowded = Figure(figsize=(8.5, 4), layout="constrained")
    ax = crowded.subplots()
    ax.plot(*zip(*places, strict=True), "o")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    for place, name in zip(places, CASES):
        ax.annotate(name, place, fontsize=8)
    assert illegible(crowded)
    for label in [*ax.texts]:
        label.remove()
    titled(crowded, MESSAGE)
    place_labels(ax, places, CASES[:12])
    assert illegible(crowded) == [] and [label.get_text() for label in ax.texts] == CASES[:12]


# --- plots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [3, 4])
def test_dots(columns):
    names = ["box_iou", "relation_acc", "recall", "clip_score", "extra_objects", "kernel_distance", "nfe"]
    metrics = {"A heading of the cases below": {}} | {case: entries(n) for case, n in zip(CASES, [200, 96] * 10)}
    metrics[CASES[3]]["kernel_distance"] |= {"mean": 11.0, "hi": 14.0}
    metrics[CASES[3]]["relation_acc"] |= {"n": 71}
    fig = dots_plot({"paper": metrics, "tuned": metrics}, names, MESSAGE, NOTE, columns=columns)
    assert illegible(fig) == []
    assert illegible(dots_plot({"": metrics}, names, MESSAGE, NOTE, "diff", columns=columns)) == []


METHODS = (
    "unguided", "DGA", "iLGD", "iLGD, injection only", "iLGD, loss only", "iLGD, loss of shares (ours)",
    "Attend-and-Excite", "BoxDiff", "layout guidance", "DenseDiffusion", "MultiDiffusion", "Composable Diffusion",
    "Directed Diffusion", "iLGD with DGA",
)  # fmt: skip


def test_pareto():
    ious = (0.13, 0.68, 0.6, 0.55, 0.54, 0.66, 0.12, 0.27, 0.51, 0.2, 0.12, 0.05, 0.37, 0.78)
    far = (0.01, 0, 0.03, 0.05, 0.02, 0.04, 0.01, 0.05, 0.03, 0.02, 1.1, 1.2, 0.15, 0.004)
    nfe = (40, 124, 40, 40, 40, 40, 93, 50, 78, 40, 196, 120, 40, 94)
    metrics = {name: entries(box_iou=iou, kernel_distance=d, nfe=n) for name, iou, d, n in zip(METHODS, ious, far, nfe)}
    assert illegible(pareto_plot(metrics, MESSAGE, NOTE, dict.fromkeys(METHODS, METHOD))) == []


def test_search():
    options = {
        "loss": "squared_share", "strength": {"rule": "unit", "scale": 0.8}, "injection": 1.5,
        "injection_window": {"start": 0.0, "stop": 0.22}, "window": {"start": 0.0, "stop": 1.0},
    }  # fmt: skip
    tried = [{"options": options, **entries()}, *({"options": {"scale": k}, **entries()} for k in range(5))]
    searches = dict.fromkeys(METHODS[1:], {"best": options, "tried": tried})
    assert illegible(search_plot(searches, MESSAGE, NOTE)) == []


def test_strengths():
    sweep = {
        str(s): entries(box_iou=iou, kernel_distance=d)
        for s, iou, d in zip(
            (0, 0.25, 0.5, 0.75, 1), (0.15, 0.69, 0.7, 0.7, 0.66), (-0.075, -0.065, -0.07, -0.06, -0.05)
        )
    }
    assert illegible(strength_plot(sweep, "box_iou", MESSAGE, NOTE)) == []
    modules = {"layout": "box_iou", "text": "relation_acc", "drag": "drag_md"}
    sweeps = {module: {"none": entries()} | {f"{v:g}": entries() for v in (0.25, 0.5, 1, 2, 4)} for module in modules}
    titles = {"layout": "Layout (DGA)", "text": "Prompt (DCA)", "drag": "Drag (DMA)"}
    assert illegible(tradeoff_plot(sweeps, modules, titles, MESSAGE, NOTE)) == []


def test_curves():
    of = {"box_iou": 6, "relation_acc": 3, "drag_md": 4}
    names = {f"{name} {k}": name for name, count in of.items() for k in range(count)}
    curves = {key: curve([0, 0.05, 0.1, 0.2], name) for key, name in names.items()}
    knobs = dict.fromkeys(names, ("Prompt (DCA):\nerrors of the detector", "shift, share of a side"))
    assert illegible(curves_plot(curves, names, knobs, MESSAGE, NOTE)) == []


def test_objects():
    rows = [
        {
            "guidance": guidance,
            "caption": caption,
            "objects": n,
            "attribute_acc": k % 2,
            "relation_acc": 0.5,
            "recall": 1.0,
        }
        for caption in ("long", "short", "shuffled")
        for guidance in ("none", "full")
        for n in range(1, 7)
        for k in range(16)
    ]
    names = ("attribute_acc", "relation_acc", "recall")
    assert illegible(objects_plot(pd.DataFrame(rows), names, MESSAGE, NOTE)) == []


def test_budget():
    nfe, shares = (40, 52, 190, 88, 100, 208), (0.93, 0.984, 0.989, 0.936, 0.985, 0.976)
    cases = ("none", "none_again", "none_best", "full", "full_again", "full_best")
    names = ("attribute_acc", "relation_acc", "clip_score")
    metrics = {
        case: entries(nfe=n) | {name: {"mean": s, "lo": s - 0.02, "hi": s + 0.01, "n": 200} for name in names}
        for case, n, s in zip(cases, nfe, shares)
    }
    metrics["full_best"]["relation_acc"]["n"] = 72
    said = ("once", "again", "by relation")
    lines = {"unguided": dict(zip(cases[:3], said)), "guided": dict(zip(cases[3:], said))}
    assert illegible(budget_plot(metrics, lines, names, MESSAGE, NOTE)) == []


def test_cosines():
    pairs = ("cosine.dca.dga", "cosine.dca.dma", "cosine.dga.dma")
    traces = {}
    for name, keys in {"text + layout": pairs[:1], "text + drag": pairs[1:2], "text + layout + drag": pairs}.items():
        traces[name] = finals(["a", "b"])
        for of in traces[name].records:
            of.curves = {key: random.uniform(-1, 1, 20) for key in keys}
    assert illegible(cosines_plot(traces, MESSAGE, NOTE)) == []


def test_perception():
    metrics = {model: metric for model, (metric, _) in MODELS.items()} | {"raft": "epe_moving"}
    rows = [
        {"noise": noise, "model": model, "metric": metric, "value": 1 - noise / 100}
        for noise in (0, 10, 30, 50, 70, 90)
        for model, metric in metrics.items()
    ]
    assert illegible(perception_plot(pd.DataFrame(rows), NOTE)) == []


# --- pictures --------------------------------------------------------------------------------------------------------


def test_grid_of_layouts():
    cases = ("unguided", "iLGD tuned", "DGA, coverage only", "iLGD with DGA tuned")
    traces = {case: finals([WIDE.prompt], WIDE) for case in cases}
    fig = case_grid(traces, judged(cases, box_iou=0.42, mask_iou=0.5), MESSAGE, NOTE)
    assert illegible(fig) == []


@pytest.mark.parametrize("count", [1, 3, 5])
def test_grid_of_prompts(count):
    cases = [f"DCA with presence {k} (ours)" for k in range(count)]
    traces = {case: finals([LONG] * 5) for case in cases}
    fig = prompt_grid(traces, judged(cases, attribute_acc=0.5, relation_acc=np.nan), MESSAGE, NOTE)
    assert illegible(fig) == []


def test_grid_of_pictures_drawn_again():
    rows = [
        [{"seed": k + 100 * n, "attribute_acc": 1 - n / 2, "relation_acc": 0.5} for k in range(8)] for n in range(2)
    ]
    pictures = random.integers(0, 256, (6, 64, 64, 3), np.uint8)
    runs = tuple((pictures, of) for of in rows)
    assert illegible(best_of_grid({"unguided": runs, "guided": runs}, [LONG] * 8, NOTE)) == []
    assert illegible(best_of_grid({"guided": runs}, [LONG] * 8, NOTE)) == []


def test_grid_of_drags():
    cases = (
        "inversion alone",
        "DMA, displacement only",
        "DMA, without semantic",
        "DMA, without appearance",
        "DMA, all losses",
    )
    asked = drag(prompt="a medium red car and a large striped orange star at night")
    traces = {case: trace(0.6, record([0, 0, 0, 0, 1], asked), record([0, 0, 0, 0, 1], asked)) for case in cases}
    scores = judged(cases, drag_md=13.2, edit_fidelity=0.5)
    assert illegible(drag_grid(traces, [picture()] * 2, scores, MESSAGE, NOTE)) == []


def test_grid_of_combinations():
    scene = SimpleNamespace(prompt=WIDE.prompt, scene=SimpleNamespace(layout=WIDE), drag=SimpleNamespace(drag=drag()))
    cases = (
        "unguided",
        "text",
        "layout",
        "drag",
        "text + layout",
        "text + drag",
        "layout + drag",
        "text + layout + drag",
    )
    traces = {case: finals([WIDE.prompt] * 2) for case in cases}
    fig = combination_grid(traces, [scene] * 2, judged(cases, box_iou=0.2, center_dist=48.0), MESSAGE, NOTE)
    assert illegible(fig) == []


def test_attention():
    made = {
        name: attention_traces.trace(kind, attention_traces.record(WIDE, 0.05, attention_traces.EARLY))
        for name, kind in {"unguided": "none", "iLGD tuned": "ilgd", "iLGD with DGA": "ilgd"}.items()
    }
    assert illegible(attention_grid(made, NOTE)) == []
    assert illegible(overlap_plot(made["iLGD tuned"], NOTE)) == []


def test_strips():
    made = finals([WIDE.prompt], WIDE, 20)
    made.settings = {"dga": {"window": {"start": 0.0, "stop": 0.7}}}
    of = made.records[0]
    of.frames, of.maps["dga.masks"] = np.repeat(of.final[None], 20, 0), np.zeros((20, 4, 64, 64), np.uint8)
    of.curves = {key: np.linspace(0, 1, 20) for key in ("dga.coverage", "dga.size", "dga.distance", "grad_rms")}
    assert illegible(steps_strip(made, made, ("unguided", "DGA, all terms"), NOTE)) == []
    runs = {case: trace(GUIDED[case], replace(record(ARRIVED[case], drag()), seed=91000)) for case in ("none", "full")}
    assert illegible(flow_strip(runs["none"], runs["full"], ("inversion", "DMA, all losses"), NOTE)) == []


def test_a_baseline_is_grey_and_dashed_on_to_the_next_one():
    metrics = {name: {"recall": entry(value)} for name, value in zip("abcd", (0.1, 0.5, 0.3, 0.6))}
    fig = dots_plot({"": metrics}, ["recall"], "", "", colors={"a": BASE, "c": BASE}, columns=1)
    dashed = [line.get_xydata().tolist() for line in fig.axes[0].lines if line.get_linestyle() == "--"]
    assert dashed == [[[0.1, 0], [0.1, 1.4]], [[0.3, 2], [0.3, 3.4]]]
