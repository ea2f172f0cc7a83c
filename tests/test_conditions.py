"""Layouts and drags: JSON in and out, rasterising, tokens of phrases, and every refusal with its message."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from helpers.conditions import Drag, Layout, Move, Prompt, Region, decode_image, decode_mask, encode_image, encode_mask

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


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (64, 96), (5, 7), (1, 1), (100, 3)])
def test_masks_of_any_size_cover_the_same_share(size):
    mask = np.random.default_rng(0).random((24, 40)) < 0.3
    (resized,) = layout(mask=encode_mask(mask)).masks(*size)
    assert resized.shape == size and resized.dtype == torch.float32
    assert 0 <= resized.min() and resized.max() <= 1
    assert resized.mean().item() == pytest.approx(mask.mean(), abs=1e-6)


def test_masks_are_resized_by_area():
    mask = np.zeros((4, 4), bool)
    mask[0, :3] = mask[1, 0] = True
    one = layout(mask=encode_mask(mask))
    assert torch.equal(one.masks(4, 4)[0], torch.from_numpy(mask).float()), "as it is"
    assert one.masks(2, 2)[0].tolist() == [[0.75, 0.25], [0, 0]]
    assert torch.equal(one.masks(8, 16)[0], torch.from_numpy(np.kron(mask, np.ones((2, 4)))).float())
    torch.testing.assert_close(one.masks(4, 3)[0, 0], torch.tensor([1, 1, 0.25]))
    box = layout(box=(0.25, 0, 1, 0.5))
    boxed = layout(mask=encode_mask(box.masks(4, 4)[0].numpy()))
    for size in [(4, 4), (8, 8), (3, 5)]:
        torch.testing.assert_close(boxed.masks(*size), box.masks(*size), msg="a mask of a box is the box")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((3, 4, 1), bool), ["(H, W)", "(3, 4, 1)"]),
        (np.zeros((0, 4), bool), ["(H, W)", "(0, 4)"]),
        (np.full((2, 2), 0.3), ["float64", "other values", "x > 0.5"]),
        (np.array([[255, 0]], np.uint8), ["uint8", "other values"]),
    ],
)
def test_what_is_no_mask_is_not_encoded(mask, words):
    with pytest.raises(ValueError) as error:
        encode_mask(mask)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "text", ["3000000000x1:3000000000", "65536x65536:4294967296", "1x999999999:999999999", "0x0:0"]
)
def test_the_size_of_a_mask_is_bounded_before_it_is_made(text, monkeypatch):
    monkeypatch.setattr(np, "repeat", lambda *a: pytest.fail("memory was taken"))
    with pytest.raises(ValueError, match="resize it|make it with encode_mask"):
        decode_mask(text)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Region("red ball", (0, 0, 0.5, 0.5)), ["Region takes its values by name", "'red ball'", "box=..."]),
        (lambda: Layout("a car", []), ["Layout takes its values by name", "prompt=..., regions=..."]),
        (lambda: Move((0, 0), (1, 1)), ["Move takes its values by name", "handle=..., target=..."]),
        (lambda: Prompt("a car"), ["Prompt takes its values by name", "text=..."]),
    ],
)
def test_values_are_given_by_name(make, words):
    with pytest.raises(TypeError) as error:
        make()
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), True, np.True_, "0.3", None])
def test_a_coordinate_is_a_finite_number(wrong):
    with pytest.raises(ValidationError, match=r"is no number: write one|leaves the image"):
        layout(box=(0, 0, wrong, 0.5))
    for point in ("handle", "target"):
        with pytest.raises(ValidationError, match="is no number: write one|outside the image"):
            Move(**{"handle": (0, 0), "target": (1, 1), point: (0.5, wrong)})


def test_numbers_of_any_library_are_taken():
    assert layout(box=np.float32([0, 0, 0.5, 0.5]).tolist()) == layout(box=tuple(np.float32([0, 0, 0.5, 0.5])))
    assert layout(box=(0, 0, 1, 1), start=np.int64(2)).regions[0].start == 2
    for wrong in (True, 2.0, "2"):
        with pytest.raises(ValidationError, match="is no whole number"):
            layout(start=wrong)


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
    assert tiny.tokens.of(TWO, "red ball") == [2, 3]  # 0 is the start token, 1 is "a"
    assert tiny.tokens.of(TWO, "ball", start=22) == [7]
    assert tiny.tokens.of(TWO, "ball", start=6) == [3]
    several = tiny.tokens.of("a zebra on the grass", "zebra")
    assert several == [2, 3, 4, 5, 6] and tokenizer.tokenize("zebra") == list("zebr") + ["a</w>"]
    assert tiny.tokens.of("a red  ball, left", "ball") == [3]
    assert tiny.tokens.of("A RED ball", "RED") == [2]
    with pytest.raises(ValueError, match="occurs 2 times"):
        tiny.tokens.of(TWO, "ball")


def test_prompt_past_the_window_is_refused(tiny):
    long = "red " * 80
    with pytest.raises(ValueError, match="has 82 tokens .* reads 77: shorten it by at least 5"):
        tiny.tokens.check([long])
    with pytest.raises(ValueError, match="82 tokens"):
        tiny.encode_text([long])


# --- drags -----------------------------------------------------------------------------------------------------------

PICTURE = np.random.default_rng(0).integers(0, 255, (8, 16, 3), np.uint8)
SPOT = np.zeros((8, 16), bool)
SPOT[2:6, 4:12] = True
COLUMN = np.zeros((8, 16), bool)
COLUMN[2:6, 8] = True


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
        ({"source": "ä"}, ["'ä'", "no image", "encode_image"]),
        ({"source": encode_image(PICTURE)[:-60]}, ["damaged", "encode_image"]),
        (
            {"moves": [(0.5, 0.5, 1.0, 0.5)], "mask": encode_mask(COLUMN)},
            ["moves all of its mask out of the image", "nothing guides it", "(1.0, 0.5) further inside"],
        ),
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


def test_a_drag_that_keeps_a_pixel_in_the_image_is_taken():
    last = [(8.5 / 16, 0.5, 15.5 / 16, 0.5)]
    assert drag(last, mask=encode_mask(COLUMN)).moves[0].target == (15.5 / 16, 0.5)
    assert drag([(0.5, 0.5, 1.0, 0.5)], mask=encode_mask(SPOT)), "what lies to the left of the handle stays inside"
    two = [(0.3, 0.5, 0.3, 0.5), (0.7, 0.5, 1.0, 0.5)]
    assert drag(two, mask=encode_mask(SPOT)), "one handle holds"


# --- pictures --------------------------------------------------------------------------------------------------------


def as_text(image, **options) -> str:
    file = io.BytesIO()
    image.save(file, **{"format": "PNG"} | options)
    return base64.b64encode(file.getvalue()).decode()


def test_pictures_survive_their_text():
    assert (decode_image(encode_image(PICTURE)) == PICTURE).all()
    assert (decode_image(encode_image(PICTURE / 255)) == PICTURE).all(), "floats"
    assert (decode_image(encode_image(np.float32(PICTURE) / 255)) == PICTURE).all()
    grey = PICTURE[:, :, 0]
    for one in (grey, grey[:, :, None], grey / 255):
        assert (decode_image(encode_image(one)) == grey[:, :, None]).all(), "grey"
    opaque = np.dstack([PICTURE, np.full((8, 16), 255, np.uint8)])
    assert (decode_image(encode_image(opaque)) == PICTURE).all(), "RGBA"
    opaque[:, :4, 3] = 0
    seen = decode_image(encode_image(opaque))
    assert (seen[:, :4] == 255).all() and (seen[:, 4:] == PICTURE[:, 4:]).all(), "what is transparent is white"


def test_files_of_every_kind_show_what_a_viewer_shows():
    wide = np.uint16(PICTURE[:, :, 0]) * 257
    assert (decode_image(as_text(Image.fromarray(wide))) == PICTURE[:, :, :1]).all(), "16 bits of grey"
    rgba = Image.fromarray(np.dstack([PICTURE, np.full((8, 16), 255, np.uint8)]))
    assert (decode_image(as_text(rgba)) == PICTURE).all()
    few = Image.fromarray(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE)
    assert (decode_image(as_text(few)) == np.asarray(few.convert("RGB"))).all(), "a palette"
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = Image.fromarray(np.zeros((8, 16, 3), np.uint8))
    assert decode_image(as_text(jpeg, format="JPEG", exif=turned)).shape == (16, 8, 3), "a phone's picture, upright"
    with pytest.raises(ValueError, match="floats in a file"):
        decode_image(as_text(Image.fromarray(np.float32(PICTURE[:, :, 0])), format="TIFF"))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (PICTURE.transpose(2, 0, 1), ["(3, 8, 16)", "channels come last", "transpose(1, 2, 0)"]),
        (torch.zeros(3, 8, 16), ["(3, 8, 16)", "channels come last"]),
        (PICTURE[None], ["(1, 8, 16, 3)", "(H, W, 3)"]),
        (PICTURE[:, :, :2], ["(8, 16, 2)", "(H, W, 3)"]),
        (PICTURE[:0], ["(0, 16, 3)"]),
        (np.float32(PICTURE), ["float32", "scale them to [0, 1]"]),
        (np.full((8, 8, 3), np.nan), ["float64", "nan", "[0, 1]"]),
        (PICTURE / 255 - 0.5, ["from -0.5", "[0, 1]"]),
        (np.uint16(PICTURE), ["uint16", "convert it"]),
        (PICTURE > 3, ["bool", "convert it"]),
        (np.zeros((1, 20_000_000), np.uint8), ["1x20000000", "resize it"]),
        ("a.png", ["()", "(H, W, 3)"]),
    ],
)
def test_what_is_no_picture_is_not_encoded(image, words):
    with pytest.raises(ValueError) as error:
        encode_image(image)
    assert all(word in str(error.value) for word in words), error.value


def test_a_picture_that_would_fill_the_memory_is_refused_unread():
    with pytest.raises(ValueError, match="picture is 1x20000000.*resize it"):
        decode_image(as_text(Image.new("1", (20_000_000, 1))))
