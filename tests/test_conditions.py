"""Layouts and drags: JSON in and out, rasterising, tokens of phrases, and every refusal with its message."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from helpers.conditions import Drag, Layout, Move, Prompt, Region, decode_image, decode_mask, encode_image, encode_mask
from helpers.tokens import check_window, phrase_tokens

TWO = "a red ball and a blue ball"


def layout(prompt=TWO, **region):
    return Layout(prompt=prompt, regions=[Region(**{"phrase": "red ball", "box": (0, 0, 0.5, 0.5)} | region)])


@pytest.mark.parametrize("fill", [0.0, 0.3, 1.0])
def test_masks_survive_their_text(fill):
    mask = np.random.default_rng(0).random((7, 9)) < fill
    assert (decode_mask(encode_mask(mask)) == mask).all()
    assert encode_mask(np.array([[0, 0, 1], [1, 0, 0]])) == "2x3:2,2,2"


def test_layout_survives_json():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 1:4] = True
    one = Layout(
        prompt=TWO,
        regions=[
            Region(phrase="red ball", box=(0, 0.1, 0.25, 1)),
            Region(phrase="ball", start=22, mask=encode_mask(mask)),
        ],
    )
    assert Layout.model_validate_json(one.model_dump_json()) == one


def test_box_covers_its_exact_area():
    masks = layout(box=(0.11, 0.2, 0.523, 0.97)).masks(64, 32)
    assert masks.shape == (1, 64, 32)
    assert masks.sum().item() == pytest.approx((0.523 - 0.11) * 32 * (0.97 - 0.2) * 64, rel=1e-5)
    corner = torch.tensor([[0.0, 0, 0, 0]] + 3 * [[1, 1, 0, 0]])
    assert torch.equal(layout(box=(0, 0.25, 0.5, 1)).masks(4, 4)[0], corner)


def test_mask_wins_and_can_be_left_out_or_boxed():
    mask = np.zeros((4, 4), bool)
    mask[1:3, 2] = True
    both = layout(mask=encode_mask(mask))
    assert (both.masks(4, 4)[0].numpy() == mask).all()
    assert both.boxes_only() == layout()
    assert both.masks_only().regions[0].box is None
    assert both.as_boxes().regions[0].box == (0.5, 0.25, 0.75, 0.75)
    assert (both.as_boxes().masks(4, 4)[0].numpy() == mask).all()


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ({"box": (0, 0, 1.2, 1)}, ["1.2", "red ball", "leaves the image", "between 0 and 1"]),
        ({"box": (0.5, 0, 0.5, 1)}, ["(0.5, 0.0, 0.5, 1.0)", "no area", "(x0, y0, x1, y1)"]),
        ({"box": None}, ["'red ball'", "neither box nor mask", "give one"]),
        ({"mask": "2x2:4"}, ["'red ball'", "empty"]),
        ({"mask": "2x2:1,2"}, ["3 pixels", "2x2 says 4", "encode_mask"]),
        ({"mask": "dots"}, ["'dots'", "HxW:run,run", "encode_mask"]),
        ({"phrase": "green ball"}, ["'green ball'", "is not in the prompt", TWO, "copy it"]),
        ({"phrase": "red bal"}, ["'red bal'", "is not in the prompt", "whole words"]),
        ({"phrase": "ball"}, ["'ball'", "occurs 2 times", "start=6 or 22"]),
        ({"phrase": "ball", "start": 5}, ["'ball'", "start=5", "use start=6 or 22"]),
        ({"phrase": " "}, ["' '", "copy one from the prompt"]),
        ({"color": "red"}, ["color", "Extra inputs are not permitted"]),
        ({"prompt": "  "}, ["'  '", "is empty"]),
    ],
)
def test_refusals_name_thing_value_and_cure(region, words):
    with pytest.raises(ValidationError) as error:
        layout(**region)
    for word in words:
        assert word in str(error.value)


def test_mask_of_another_size_is_refused():
    small = layout(mask=encode_mask(np.ones((32, 32), bool)))
    with pytest.raises(ValueError, match="'red ball' is 32x32, the masks here are 64x64: resize it"):
        small.masks(64, 64)


def test_layout_needs_regions_and_one_per_phrase():
    with pytest.raises(ValidationError, match="has no regions: give at least one"):
        Layout(prompt=TWO, regions=[])
    with pytest.raises(ValidationError, match="two regions .* same phrase 'red ball' at character 2"):
        Layout(prompt=TWO, regions=2 * [Region(phrase="red ball", box=(0, 0, 1, 1))])
    with pytest.raises(ValueError, match="'red ball' has no mask: give every region a mask"):
        layout().masks_only()
    with pytest.raises(ValidationError, match="frozen"):
        layout().prompt = "a car"
    assert Prompt(text="a car").negative == ""


def test_phrase_tokens(tiny):
    tokenizer = tiny.pipe.tokenizer
    assert phrase_tokens(tokenizer, TWO, "red ball") == [2, 3]  # 0 is the start token, 1 is "a"
    assert phrase_tokens(tokenizer, TWO, "ball", start=22) == [7]
    assert phrase_tokens(tokenizer, TWO, "ball", start=6) == [3]
    several = phrase_tokens(tokenizer, "a zebra on the grass", "zebra")
    assert several == [2, 3, 4, 5, 6] and tokenizer.tokenize("zebra") == list("zebr") + ["a</w>"]
    assert phrase_tokens(tokenizer, "a red  ball, left", "ball") == [3]
    assert phrase_tokens(tokenizer, "A RED ball", "RED") == [2]
    with pytest.raises(ValueError, match="occurs 2 times"):
        phrase_tokens(tokenizer, TWO, "ball")


def test_prompt_past_the_window_is_refused(tiny):
    long = "red " * 80
    with pytest.raises(ValueError, match="has 82 tokens .* reads 77: shorten it by at least 5"):
        check_window(tiny.pipe.tokenizer, long)
    with pytest.raises(ValueError, match="82 tokens"):
        tiny.encode_text([long])


# --- drags -----------------------------------------------------------------------------------------------------------

PICTURE = np.random.default_rng(0).integers(0, 255, (8, 16, 3), np.uint8)
SPOT = np.zeros((8, 16), bool)
SPOT[2:6, 4:12] = True


def drag(moves=((0.5, 0.5, 0.75, 0.25),), **fields):
    moves = [Move(handle=move[:2], target=move[2:]) for move in moves]
    return Drag(**{"prompt": "a red car", "source": encode_image(PICTURE), "moves": moves} | fields)


def test_drag_survives_json():
    one = drag([(0.5, 0.5, 0.75, 0.25), (0.3, 0.4, 0.3, 0.4)], mask=encode_mask(SPOT))
    assert Drag.model_validate_json(one.model_dump_json()) == one
    assert (decode_image(one.source) == PICTURE).all() and one.size == (8, 16)
    np.testing.assert_allclose(one.image().permute(1, 2, 0).numpy(), PICTURE / 255, atol=1e-6)


def test_points_are_in_pixels_with_the_first_ones_centre_at_zero():
    handles, targets = drag([(0.5 / 16, 0.5 / 8, 15.5 / 16, 7.5 / 8)]).points()
    assert handles.tolist() == [[0, 0]] and targets.tolist() == [[15, 7]]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"moves": [(1.2, 0.5, 0.5, 0.5)]}, ["handle (1.2, 0.5)", "outside the image", "between 0 and 1"]),
        ({"moves": [(0.5, 0.5, 0.5, -0.1)]}, ["target (0.5, -0.1)", "outside the image", "between 0 and 1"]),
        ({"moves": []}, ["'a red car'", "no handles", "at least one Move"]),
        ({"moves": [(0.5, 0.5, 0.5, 0.5)]}, ["'a red car'", "no motion", "(0.5, 0.5) stays", "set a target elsewhere"]),
        ({"moves": [(0.5, 0.5, 1, 1), (0.5, 0.5, 0, 0)]}, ["two targets", "(0.5, 0.5)", "keep one"]),
        ({"mask": encode_mask(np.ones((4, 4), bool))}, ["mask", "4x4", "8x16", "resize"]),
        ({"mask": encode_mask(np.zeros((8, 16), bool))}, ["mask", "empty", "mark at least one pixel"]),
        ({"mask": encode_mask(~SPOT)}, ["handle (0.5, 0.5)", "not on the drag's mask", "mark the object"]),
        ({"source": "a photo"}, ["'a photo'", "no image", "encode_image"]),
        ({"source": "aGVsbG8="}, ["'aGVsbG8='", "no image", "encode_image"]),
        ({"prompt": " "}, ["' '", "is empty"]),
        ({"speed": 3}, ["speed", "Extra inputs are not permitted"]),
    ],
)
def test_refused_drags_name_thing_value_and_cure(fields, words):
    with pytest.raises(ValidationError) as error:
        drag(**fields)
    for word in words:
        assert word in str(error.value)
