"""Segmentations are read by their codes, differentiably, as a segmenter reads pictures."""

import numpy as np
import pytest
import torch

from helpers.conditions import Layout, Region
from helpers.factor_graph.arranging import arranged, best, pixels, placed
from helpers.factor_graph.codes import CodeReader, fitting
from helpers.factor_graph.reading import objects
from helpers.miniature.maps import CODES

BLACK = np.zeros((64, 64, 3), np.uint8)


def painted(*things) -> np.ndarray:
    """things: (kind, colour, (x0, y0, x1, y1)), painted in their order."""
    picture = BLACK.copy()
    for kind, color, (x0, y0, x1, y1) in things:
        picture[y0:y1, x0:x1] = CODES[kind, color]
    return picture


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].double() / 255


def layout(**regions) -> Layout:
    """phrase with _ for spaces -> box in pixels of 64."""
    places = {name.replace("_", " "): [side / 64 for side in box] for name, box in regions.items()}
    return Layout(prompt=" and ".join(places), regions=tuple(Region(phrase=p, box=box) for p, box in places.items()))


def test_a_phrase_names_the_codes_of_its_kind_and_colour():
    assert fitting("red car") == {("car", "red")} == fitting("a striped red car")
    assert {kind for kind, _ in fitting("car")} == {"car"} and len(fitting("car")) == len({c for _, c in CODES})
    for phrase in ("red dog", "sky", "grass"):
        with pytest.raises(ValueError, match=f"no code of a segmentation is a '{phrase}': name a kind and a colour"):
            fitting(phrase)


def test_masks_are_where_the_codes_are():
    picture = painted(("car", "red", (10, 10, 30, 20)), ("ball", "blue", (40, 40, 60, 60)))
    found = CodeReader(0.01).masks(tensor(picture), ["red car", "blue ball", "car", "red star"])[0]
    assert found.shape == (4, 64, 64) and found.dtype == torch.float32
    assert (found[0] > 0.5).sum() == 200 == (found[2] > 0.5).sum() and (found[1] > 0.5).sum() == 400
    assert found[3].max() < 0.5 and (found[0, 10:20, 10:30] > 0.5).all()


def test_shares_of_all_codes_are_a_softmax_of_distances():
    pixel = torch.tensor([0.3, 0.6, 0.1], dtype=torch.float64)
    picture = pixel.view(1, 3, 1, 1).expand(1, 3, 32, 32).contiguous()
    palette = torch.tensor([(0, 0, 0), *CODES.values()], dtype=torch.float64) / 255
    shares = torch.exp(-(pixel - palette).square().sum(1) / 0.2)
    wanted = shares[1 + list(CODES).index(("car", "red"))] / shares.sum()
    found = CodeReader(0.2).masks(picture, ["red car"])
    assert found[0, 0, 0, 0] == pytest.approx(float(wanted), rel=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    reader = CodeReader(0.1)
    words = reader.embed(["car", "ball"])
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def energy(x):
        return reader(x, words)[0, :, 3:5, 3:5].sum()

    x = picture.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x), x)
    step, where = 1e-2, (0, 1, 3, 4)
    ends = [picture.clone() for _ in range(2)]
    ends[0][where] += step
    ends[1][where] -= step
    assert gradient[where] == pytest.approx(float((energy(ends[0]) - energy(ends[1])) / (2 * step)), rel=0.02)
    assert gradient[0, :, 10:].abs().max() == 0


def test_a_width_of_nothing_is_refused():
    for tau in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="say how far a pixel feels a code"):
            CodeReader(tau)


def test_a_map_is_read_against_boxes():
    picture = painted(("car", "red", (10, 10, 30, 20)), ("ball", "blue", (40, 40, 60, 60)))
    assert placed(picture, layout(red_car=(10, 10, 30, 20), blue_ball=(40, 40, 60, 60))) == 1.0
    assert placed(picture, layout(red_car=(10, 10, 30, 30))) == 0.5
    assert placed(picture, layout(red_star=(10, 10, 30, 30))) == 0.0
    region = layout(ball=(40, 40, 60, 50)).regions[0]
    one, iou = best(region, objects(picture), (64, 64))
    assert (one.kind, one.color) == ("ball", "blue") and iou == 0.5
    assert best(layout(red_star=(0, 0, 9, 9)).regions[0], objects(picture), (64, 64)) == (None, 0.0)


def test_objects_are_stretched_to_their_boxes():
    picture = painted(
        ("car", "red", (10, 10, 30, 20)),
        ("car", "red", (0, 50, 10, 60)),
        ("ball", "blue", (40, 40, 60, 60)),
        ("star", "pink", (30, 0, 40, 10)),
    )
    wanted = layout(red_car=(30, 30, 60, 62), blue_ball=(32, 40, 46, 50), green_tree=(0, 0, 20, 20))
    found = arranged(picture, wanted)
    assert {(one.kind, one.color): one.box for one in objects(found)} == {
        ("car", "red"): (30, 30, 60, 62),
        ("ball", "blue"): (32, 40, 46, 50),  # the smaller stands in front
        ("star", "pink"): (30, 0, 40, 10),  # nobody asked for it, so it stays
    }
    assert len(objects(found)) == 3, "the other red car is gone, and no tree came"
    assert picture[55, 5].any(), "the map that was given is not changed"


def test_boxes_in_pixels_have_an_inside():
    assert pixels(Region(phrase="a", box=(0.501, 0.2, 0.505, 0.9)), (64, 64)) == (32, 13, 33, 58)
    assert pixels(Region(phrase="a", box=(0.0, 0.5, 1.0, 1.0)), (32, 64)) == (0, 16, 64, 32)
