"""The explorer of factor graphs: what its buttons do, what it says of wrong input."""

from io import BytesIO

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from tiny_pipelines import tiny_backbone

from helpers.factor_graph.factor import Conditions, ControlledBackbone
from helpers.factor_graph.reading import objects
from helpers.guidance.cfg import CFG
from helpers.miniature.maps import segmentation
from helpers.miniature.scene import Scene, Thing
from helpers.sampling.best_of import try_seed
from helpers.sampling.loop import sample
from helpers.widgets.factors import explore_factors, wanted

PROMPT = "a red fish left of a blue ball"
SCENE = Scene(
    "sky",
    (Thing("fish", "red", "plain", "large", 30, 18, 20), Thing("ball", "blue", "plain", "small", 20, 46, 46)),
)


@pytest.fixture(scope="module")
def factors():
    planner = tiny_backbone("sd21")
    torch.manual_seed(0)
    control = ControlNetModel.from_unet(
        planner.denoiser, conditioning_embedding_out_channels=(8, 16, 16), conditioning_channels=4
    )
    for name, parameter in control.named_parameters():
        if name.startswith(("controlnet_", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(parameter, std=0.5)
    return planner, ControlledBackbone(planner, control, ["segmentation"])


@pytest.fixture
def explorer(factors):
    found = explore_factors(*factors, PROMPT, steps=3, cfg_scale=3.0)
    found.count.value, found.map_steps.value = 3, 2
    return found


@pytest.fixture
def edited(explorer):
    """With a map that shows what was asked for."""
    explorer.map = segmentation(SCENE)
    explorer._show_map()
    return explorer


def picture(image):
    return np.asarray(Image.open(BytesIO(image.value)))


def press(explorer, name):
    explorer.buttons[name].click()
    return {(o.kind, o.color): o for o in objects(explorer.map)}


def test_prompts_are_read():
    assert wanted(PROMPT) == [("fish", "red"), ("ball", "blue")]
    with pytest.raises(ValueError, match="'a dog' names no object of the miniature world: say something like"):
        wanted("a dog")


def test_maps_are_drawn_and_one_is_chosen(explorer, factors):
    explorer.plan.click()
    assert explorer.message.value == "" and len(explorer.strip.children) == 3
    seeds = [try_seed(0, k) for k in range(3)]
    maps = sample(factors[0], [PROMPT] * 3, [CFG(3.0)], steps=2, seeds=seeds, progress=False).images
    torch.testing.assert_close(explorer.candidates.pictures, maps, atol=1e-5, rtol=1e-5)
    assert len(explorer.candidates.guesses) == 2
    before = explorer.shown.value
    explorer.strip.children[2].children[1].click()
    assert np.array_equal(explorer.map, (255 * maps[2]).round().byte().permute(1, 2, 0).numpy())
    assert explorer.shown.value != before and explorer.strip.children[2].children[1].button_style == "success"
    assert explorer.strip.children[0].children[1].button_style == ""
    assert explorer.progress.layout.visibility == "hidden" and explorer.progress.value == 2


def test_edits_change_the_map_and_can_be_undone(edited):
    assert "recall 1.00" in edited.said.value and edited.which.options[1][0].startswith("red fish")
    first = edited.map.copy()
    fish = next(k for label, k in edited.which.options if label.startswith("red fish"))
    edited.which.value = fish
    box = objects(first)[fish].box
    edited.dx.value, edited.dy.value = 5, 7
    after = press(edited, "Move and resize")
    assert after["fish", "red"].box == (box[0] + 5, box[1] + 7, box[2] + 5, box[3] + 7) and edited.dx.value == 0
    edited.which.value = next(k for label, k in edited.which.options if label.startswith("red fish"))
    edited.color.value = "pink"
    assert set(press(edited, "Recolour")) == {("fish", "pink"), ("ball", "blue")}
    assert "recall 0.50" in edited.said.value
    edited.kind.value = "star"
    edited.box.value = "40, 2, 60, 22"
    assert ("star", "pink") in press(edited, "Add")
    for _ in range(3):
        press(edited, "Undo")
    assert np.array_equal(edited.map, first)
    press(edited, "Undo")
    assert "nothing was edited yet" in edited.message.value
    edited.which.value = next(k for label, k in edited.which.options if label.startswith("red fish"))
    assert set(press(edited, "Delete")) == {("ball", "blue")}


def test_an_object_is_chosen_as_long_as_there_is_one(edited):
    """A Dropdown whose only value is None may begin without a choice, and then makes none of its own."""
    edited.which.options = [("nothing", None)]
    edited.which.index = None
    edited.map, edited.earlier = np.zeros_like(edited.map), []
    edited._show_map()
    assert edited.which.options == (("nothing", None),) and edited.which.value is None
    edited.which.index = None
    press(edited, "Add")
    assert edited.which.index == 0 and edited.which.value == 0 and edited.message.value == ""
    press(edited, "Delete")
    assert edited.message.value == "" and not edited.map.any()


def test_the_picture_follows_the_map(edited, factors):
    def drawn():
        given = torch.from_numpy(edited.map.copy()).permute(2, 0, 1)[None] / 255
        methods = [Conditions(maps={"segmentation": given}), CFG(3.0)]
        return sample(factors[1], [PROMPT], methods, steps=3, seeds=[0], progress=False).images

    edited.paint.click()
    first = drawn()
    torch.testing.assert_close(edited.picture.pictures, first, atol=1e-5, rtol=1e-5)
    assert edited.step.max == 4 and edited.step.value == 4 and len(edited.picture.guesses) == 3
    last = picture(edited.after)
    edited.step.value = 1
    assert not np.array_equal(picture(edited.after), last)
    edited.which.value = edited.which.options[0][1]
    press(edited, "Delete")
    edited.paint.click()
    assert np.array_equal(picture(edited.before), last) and not np.array_equal(picture(edited.after), last)


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda e: setattr(e.prompt, "value", "<img onerror=alert(1)>") or e.plan.click(), "&lt;img"),
        (lambda e: setattr(e.prompt, "value", "") or e.plan.click(), ""),
        (lambda e: setattr(e.box, "value", "1, 2, 3") or e.buttons["Add"].click(), "is no four whole numbers"),
        (lambda e: setattr(e.box, "value", "50, 50, 80, 80") or e.buttons["Add"].click(), "does not lie in a picture"),
        (lambda e: setattr(e.dx, "value", 40) or setattr(e.dy, "value", 40) or e.buttons["Move and resize"].click(),
         "too few to be seen"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_beside_the_controls(edited, do, words):
    before = edited.map.copy()
    do(edited)
    assert edited.message.value.startswith("<span") and words in edited.message.value
    assert "<img" not in edited.message.value and np.array_equal(edited.map, before)


@pytest.mark.parametrize("name", ["Add", "Delete", "Undo"])
def test_before_there_is_a_map_nothing_can_be_edited(explorer, name):
    explorer.buttons[name].click()
    assert explorer.message.value.startswith("<span") and explorer.map is None
    explorer.paint.click()
    assert "there is no map yet: draw maps first" in explorer.message.value


def test_a_painter_without_maps_is_refused(factors):
    with pytest.raises(ValueError, match="the painter reads no segmentation: load one that does"):
        explore_factors(factors[0], factors[0], PROMPT)
