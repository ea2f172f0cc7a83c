"""The playground: requests as data, as guidance and as code; a run, its history, cancelling; what is said of errors.

tests/browser drives the same in JupyterLab.
"""

import json

import numpy as np
import pytest
import torch
from tiny_pipelines import tiny_backbone

from helpers.benchmarks.miniature_combined import items
from helpers.conditions import Drag, Layout, Region
from helpers.experiments.methods import method
from helpers.guidance.cfg import CFG
from helpers.judges.base import Found
from helpers.sampling.loop import sample
from helpers.widgets import request as module
from helpers.widgets.canvas import Canvas
from helpers.widgets.drawing import draw, read
from helpers.widgets.playground import Playground, Words
from helpers.widgets.presets import PRESETS
from helpers.widgets.request import METHODS, Request

PROMPT = "a red car left of a blue ball"
REGIONS = [
    Region(phrase="red car", box=(0.1, 0.1, 0.5, 0.5)),
    Region(phrase="blue ball", box=(0.6, 0.5, 0.9, 0.9)),
]


def drag() -> Drag:
    return items("test")[1].drag.drag


def asked(**changed) -> Request:
    return Request(**{"prompt": PROMPT, "regions": REGIONS, "methods": {"ilgd": 1.0}, "steps": 2} | changed)


def of(name: str, times: float = 2.0) -> Request:
    """A request of one method, with all that it may need."""
    own = drag()
    region = Region(phrase="purple house", box=(0.1, 0.1, 0.5, 0.5))
    return Request(prompt=own.prompt, regions=[region], drag=own, methods={name: times})


@pytest.mark.parametrize("name", METHODS)
def test_the_code_makes_the_same_guidance(name, monkeypatch):
    request = of(name)
    told = {}

    def pretend(backbone, prompts, guidance, **run):
        told.update(run, backbone=backbone, prompts=prompts, guidance=guidance)
        raise StopIteration

    monkeypatch.setattr("helpers.sampling.loop.sample", pretend)
    monkeypatch.setattr("helpers.backbones.load.load_backbone", str)
    with pytest.raises(StopIteration):
        exec(request.code(), {})
    assert list(map(repr, told["guidance"])) == list(map(repr, request.guidance()))
    assert told["prompts"] == [request.prompt] and told["backbone"] == "mini-sd"
    assert (told["steps"], told["seeds"]) == (20, [0])


@pytest.mark.parametrize("name", METHODS)
def test_a_strength_of_one_is_the_methods_own_and_others_change_one_number(name):
    (plain,) = [m for m in of(name, 1.0).guidance() if not isinstance(m, CFG)]
    needs = {"layouts", "drags"} & {field for field in vars(plain) if vars(plain)[field] is not None}
    assert repr(plain) == repr(type(plain)(**{need: getattr(plain, need) for need in needs}))
    (double,) = [m for m in of(name).guidance() if not isinstance(m, CFG)]
    changed = [key for key, value in vars(plain).items() if vars(double)[key] != value]
    assert len(changed) == 1
    before, after = (getattr(getattr(one, changed[0]), "scale", getattr(one, changed[0])) for one in (plain, double))
    assert after == pytest.approx(2 * before)


def test_who_brings_classifier_free_guidance():
    assert asked().cfg() and isinstance(asked().guidance()[0], CFG)
    assert not asked(methods={"multidiffusion": 1.0}).cfg(), "it combines the predictions itself"
    assert not of("dma").cfg(), "a source was inverted without"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"regions": []}, "ilgd needs a box: draw one for a phrase of the prompt"),
        ({"methods": {"dma": 1.0}}, "dma needs a drag: draw an arrow on a picture"),
        ({"methods": {"dca2": 1.0}}, "unknown method 'dca2': use one of"),
        ({"methods": {"dga": -1.0}}, "greater than or equal to 0"),
        ({"methods": {"dga": float("nan")}}, "nan"),
        ({"methods": {"dga": "1"}}, "write one without quotes"),
        ({"seeds": []}, "there are 0 seeds: give 1 to 4"),
        ({"seeds": [0] * 5}, "there are 5 seeds: give 1 to 4"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"seeds": [2**32]}, "less than 4294967296"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"prompt": " "}, "is empty: say what to draw"),
        ({"prompt": "a red car"}, "the phrase 'blue ball' is not in the prompt"),
        ({"drag": drag}, "the drag is of"),
        ({"cfg": 5.0}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changed, words):
    changed = {key: value() if callable(value) else value for key, value in changed.items()}
    with pytest.raises(ValueError, match=words):
        asked(**changed)


def test_presets_are_requests_and_survive_json():
    assert len(PRESETS) == 8
    for preset in PRESETS.values():
        request = preset()
        assert Request.model_validate_json(request.model_dump_json()) == request and request.guidance()


def found(kind, color, box):
    mask = np.zeros((64, 64), bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    return Found(kind, color, "plain", 0.9, box, mask)


def test_a_picture_is_read_against_the_request():
    car, ball = found("car", "red", (6, 6, 32, 32)), found("ball", "green", (40, 8, 60, 28))
    lines = read(asked(), [car, ball, found("star", "pink", (0, 50, 12, 62))], (64, 64))
    assert [(line.wish, line.seen, line.right) for line in lines] == [
        ("red car", "there", True),
        ("blue ball", "a green one", False),
        ("red car left of blue ball", "true", True),
        ("nobody asked for it", "pink star", False),
    ]
    assert lines[0].iou > 0.9 and lines[1].iou == 0 and lines[2].iou is None
    absent = read(asked(regions=[], methods={}), [car], (64, 64))
    assert [(line.seen, line.iou, line.right) for line in absent] == [("there", None, True), ("not there", None, False)]
    turned = read(asked(), [found("car", "red", (40, 6, 60, 32)), found("ball", "blue", (4, 8, 24, 28))], (64, 64))
    assert turned[2].seen == "not so" and not turned[2].right


def test_twice_the_same_phrase_is_told_apart():
    assert Words.of("a red car and a red car").places == {"red car": ("red car", 2), "red car (2)": ("red car", 16)}


# --- the widget


class Judge:
    def recognise(self, images):
        return [[found("car", "red", (6, 6, 32, 32))] for _ in images]


@pytest.fixture(scope="module")
def tiny_model():
    return tiny_backbone("sd21")


@pytest.fixture
def play(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.widgets.playground._loaded", lambda name: tiny_model)
    return Playground(asked(), Judge(), tmp_path / "runs")


def done(play):
    play.run()
    play.wait()
    return play.history[-1]


def said(play):
    return {name: error.value for name, error in play.errors.items() if error.value}


def plain(request):
    """Without where phrases begin, which may be left out of those that occur once."""
    return request.model_dump(exclude={"regions": {"__all__": {"start"}}})


def test_controls_say_what_was_loaded(play):
    assert play.request() == asked() and play.label.options == ("red car", "blue ball")
    for preset in PRESETS:
        play.preset.value = preset
        assert plain(play.request()) == plain(PRESETS[preset]()), preset
    assert said(play) == {}


def test_a_run_draws_what_sample_draws(play, tiny_model):
    entry = done(play)
    request = asked()
    run = {"steps": 2, "seeds": [0], "progress": False}
    for drawn, guidance in ((entry.base, [CFG(5.0)]), (entry.guided, request.guidance())):
        images = sample(tiny_model, [PROMPT], guidance, **run).images
        torch.testing.assert_close(drawn.images, images, atol=1e-6, rtol=0)
    assert play.code.value == request.code() and not play.running and play.progress.value == 4
    assert [step for step, _ in entry.guided.losses["ilgd"]] == [2], "at alpha 0 there is no gradient"
    assert play.right.value == (0, 1) and "red car" in play.readings[1].value and "✓" in play.readings[1].value
    assert "evaluations of the denoiser" in play.cost.value and said(play) == {}


def test_every_run_has_a_folder_of_its_own(play, tmp_path):
    done(play)
    (tmp_path / "runs" / "0002").mkdir()  # another person's
    play.seeds.value = "3, 4, 5"
    second = done(play)
    assert second.folder.name == "0003" and sorted(path.name for path in second.folder.iterdir()) == [
        "baseline.png", "code.py", "guided.png", "request.json",
    ]  # fmt: skip
    assert not any((tmp_path / "runs" / "0002").iterdir())
    kept = Request.model_validate_json((second.folder / "request.json").read_text())
    assert kept == second.request == asked(seeds=[3, 4, 5])
    play.left.value = (0, 1)  # compared with the first one's guided picture
    first, later = play.pictures[0].value, play.pictures[1].value
    assert first != later and len(play.right.options) == 4


def test_a_known_baseline_is_not_drawn_again(play):
    first = done(play)
    play.chosen.children[0].children[0].value = 3.0
    second = done(play)
    assert second.base is first.base and second.request.methods == {"ilgd": pytest.approx(3.0)}
    play.steps.value = 3
    assert done(play).base is not first.base


def test_cancel_acts_after_one_evaluation(tiny_model):
    class Stop:
        asked = 0

        def is_set(self):
            self.asked += 1
            return self.asked > 3

    seen = []
    request = asked(steps=10)
    assert draw(tiny_model, request, request.baseline(), lambda ctx, _: seen.append(ctx.i), Stop()) is None
    assert seen == [0, 1, 2]


def test_a_cancelled_run_leaves_nothing(play, tmp_path):
    play.stop.is_set = lambda: True  # pressed at once
    play.run()
    play.wait()
    assert play.history == [] and not (tmp_path / "runs").exists() and play.state.value.startswith("cancelled after")
    assert not play.run_button.disabled and play.cancel_button.disabled


def test_other_words_for_the_same_things_keep_their_boxes(play):
    play.prompt.value = "a green star left of a blue ball"
    assert [box["label"] for box in play.canvas.boxes] == ["green star", "blue ball"]
    assert [region.phrase for region in play.request().regions] == ["green star", "blue ball"]
    play.prompt.value = "a blue ball"
    play.run()
    assert "the prompt has no 'green star' any more: delete its box" in said(play)["regions"].replace("&#x27;", "'")


def test_a_drag_in_the_last_picture(play):
    play.take.click()
    assert "there is no picture yet" in said(play)["regions"]
    entry = done(play)
    play.take.click()
    assert play.mode.value == play.canvas.mode == "arrow" and play.canvas.picture
    play.canvas.arrows = [{"handle": [0.3, 0.3], "target": [0.6, 0.3]}]
    own = play.request().drag
    assert own.prompt == PROMPT and own.moves[0].target == (0.6, 0.3)
    np.testing.assert_allclose(own.image(), entry.guided.images[0], atol=1 / 255)


@pytest.mark.parametrize(
    ("do", "place", "words"),
    [
        (lambda p: setattr(p.seeds, "value", "1; 2"), "seeds", "is no list of whole numbers"),
        (lambda p: setattr(p.seeds, "value", "1,2,3,4,5"), "seeds", "there are 5 seeds"),
        (lambda p: setattr(p.prompt, "value", ""), "prompt", ""),
        (lambda p: setattr(p.canvas, "boxes", []), "", "ilgd needs a box"),
        (lambda p: p.choose("dma"), "", "dma needs a drag"),
        (lambda p: setattr(p.canvas, "boxes", [{"label": "red car", "box": [0.5, 0.1, 0.2, 0.9]}]), "", "has no area"),
        (lambda p: setattr(p.prompt, "value", "<img onerror=alert(1)> and a cat and a dog"), "regions", "any more"),
    ],
)
def test_errors_stand_beside_their_field_and_nothing_runs(play, do, place, words):
    do(play)
    play.run()
    told = said(play)
    assert set(told) == {place} and words in told[place].replace("&#x27;", "'") and "<img" not in told[place]
    assert not play.running and play.history == []


def test_what_goes_wrong_in_the_thread_is_said(play, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr("helpers.widgets.playground.draw", broken)
    play.run()
    play.wait()
    assert said(play) == {"": "<span style='color:#b00020'>RuntimeError: out of &lt;memory&gt;</span>"}
    assert not play.run_button.disabled


def test_json_goes_in_and_out(play):
    state = play.json.value
    assert Request.model_validate_json(state) == asked()
    layout = Layout(prompt="a green star on sand", regions=[Region(phrase="green star", box=(0.2, 0.2, 0.6, 0.7))])
    for text, methods in ((layout.model_dump_json(), {"ilgd": 1.0}), (drag().model_dump_json(), {"dma": 1.0})):
        play.json.value = text
        play.load_button.click()
        assert play.json_error.value == "" and play.request().methods == methods
    assert play.request().drag.moves == drag().moves
    play.json.value = state
    play.load_button.click()
    assert play.request() == asked()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"prompt": "<b>"}', '{"prompt": "a", "steps": 0}'])
def test_json_that_is_no_request_is_refused(play, text):
    before = play.request()
    play.json.value = text
    play.load_button.click()
    assert text == '{"prompt": "<b>"}' or (play.json_error.value.startswith("<span") and play.request() == before)
    assert "<b>" not in play.json_error.value


def test_words_that_the_model_has_never_read_are_marked(play):
    play.prompt.value = "a zebra <i>"
    assert "never read <u>zebra</u>" in play.unread.value and "<i>" not in play.unread.value


def test_the_canvas_tells_the_browser_what_it_needs():
    canvas = Canvas(labels=["red car"], boxes=[{"label": "red car", "box": [0, 0, 1, 1]}])
    assert {"picture", "side", "boxes", "arrows", "labels", "label", "mode", "colors"} <= set(canvas.get_state())
    assert "export default" in str(canvas.get_state()["_esm"]) and json.dumps(canvas.boxes)
    assert len(METHODS) == len(set(METHODS)) and all(method(name) for name in module.METHODS)
