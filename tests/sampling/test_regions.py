"""What is read of layouts: all tokens of a phrase and no others, shares of cells, regions smaller than a cell."""

import pytest
import torch
from single_steps import LAYOUTS, PROMPTS, begun, layout, randoms, regions_of

from helpers.backbones.attention import Layers, Site
from helpers.backbones.load import wrap
from helpers.conditions import Layout, Region
from helpers.sampling.regions import Regions, crisp, of_regions, of_tokens


def words(backbone, prompt, keys):
    """What the chosen keys of a prompt say."""
    return backbone.pipe.tokenizer.decode(
        torch.tensor(backbone.pipe.tokenizer(prompt)["input_ids"])[keys.nonzero().flatten()]
    )


def test_phrases_and_nouns_are_all_their_tokens_and_no_others(tiny):
    box = (0, 0, 1, 1)
    one = layout("a red car and a green tree, on the grass", red_car=box, green_tree=box, the_grass=box)
    regions = regions_of(tiny, one)
    for r, (phrase, noun) in enumerate([("red car", "car"), ("green tree", "tree"), ("the grass", "grass")]):
        assert words(tiny, one.prompt, regions.phrases[0, r]) == phrase
        assert words(tiny, one.prompt, regions.nouns[0, r]) == noun
    assert regions.phrases[0, 0].nonzero().flatten().tolist() == [2, 3] and regions.nouns[0, 0].nonzero().item() == 3
    assert regions.nouns[0, 1].sum() > 1, "a word of several tokens"


def test_repeated_phrases_are_told_apart_by_their_start(tiny):
    box = {"box": (0, 0, 1, 1)}
    twice = Layout(
        prompt="a ball and a red ball",
        regions=[Region(phrase="ball", start=2, **box), Region(phrase="ball", start=17, **box)],
    )
    assert [own.nonzero().item() for own in regions_of(tiny, twice).nouns[0]] == [2, 6]
    inner = layout("a ball and a red ball", ball_and_a_red_ball=(0, 0, 1, 1))
    assert regions_of(tiny, inner).nouns[0, 0].nonzero().item() == 6, "the noun is the last word, where it stands last"


def test_places_are_shares_and_padding_is_empty(tiny):
    wide = tiny.at(32, 64)
    regions = regions_of(wide, *LAYOUTS)
    assert regions.valid.tolist() == [[True, True], [True, False]]
    padded = (regions.masks, regions.phrases, regions.nouns)
    assert not any(kind[1, 1].any() for kind in padded) and all(kind[1, 0].any() for kind in padded)
    car = torch.zeros(4, 8)
    car[1:3, :4] = 1
    assert torch.equal(regions.pixels(Site("x", "cross", "up", (4, 8), 0))[0, 0].view(4, 8), car)
    fish = regions.places(2, 4)[0, 1]
    torch.testing.assert_close(fish, torch.tensor([[0, 0, 0.25, 0.5]] * 2))
    part = regions.part([1])
    assert part.layouts == [LAYOUTS[1]] and torch.equal(part.masks, regions.masks[1:]) and len(part.valid) == 1


def test_one_layout_serves_all_images(tiny):
    job = begun(tiny, [PROMPTS[0]] * 3).job
    regions = Regions.of(job, LAYOUTS[0], "a method")
    assert len(regions.valid) == 3 and torch.equal(regions.masks[0], regions.masks[2])


def test_masks_are_float32_whatever_the_models_precision(make_pipeline):
    half = wrap(make_pipeline().to(torch.bfloat16))
    assert regions_of(half, *LAYOUTS).masks.dtype == torch.float32


def test_layers_that_are_not_there_are_refused_before_any_work(tiny):
    job = begun(tiny, PROMPTS).job
    with pytest.raises(ValueError, match=r"UNet2DConditionModel has no attention .*cells=\(7,\).* it has cross"):
        Regions.of(job, LAYOUTS, "a method", Layers(cells=(7,)))


def test_crisp_cells_are_those_of_one_half():
    shares = torch.tensor([[[1.0, 0.5, 0.49], [0, 0, 0]], [[0.3, 0.2, 0.3], [0, 0.1, 0]], [[0.0] * 3] * 2])
    expected = torch.tensor([[[1.0, 1, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0]], [[0.0] * 3] * 2])
    assert torch.equal(crisp(shares), expected)


def test_a_region_smaller_than_a_cell_keeps_its_fullest_cells(tiny):
    middle = layout("a red car", red_car=(0.37, 0.37, 0.63, 0.63))
    regions = regions_of(tiny, middle)
    assert regions.places(4, 4).max() < 0.5
    expected = torch.zeros(4, 4)
    expected[1:3, 1:3] = 1
    assert torch.equal(regions.cells(4, 4)[0, 0], expected)
    shares = randoms(2, 3, 6, 6, dtype=torch.float32)  # each has cells of one half
    assert torch.equal(crisp(shares), (shares >= 0.5).float())


def test_values_of_regions_and_of_tokens():
    tokens = torch.tensor([[[False, True, True, False], [False, False, True, False]]])
    per_region = torch.tensor([[[0.2, 0.9], [0.5, 0.1]]])  # two regions, two pixels
    expected = torch.tensor([[[[0, 0.2, 0.5, 0], [0, 0.9, 0.9, 0]]]])
    torch.testing.assert_close(of_tokens(per_region, tokens), expected)
    probs = randoms(1, 3, 2, 4)
    own = of_regions(probs, tokens)
    torch.testing.assert_close(own[:, :, 0], probs[..., 1:3].mean(-1))
    torch.testing.assert_close(own[:, :, 1], probs[..., 2])
    assert of_regions(probs, torch.zeros(1, 2, 4, dtype=torch.bool)).eq(0).all(), "padding has no tokens"
