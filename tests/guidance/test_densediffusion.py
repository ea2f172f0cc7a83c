"""DenseDiffusion: modulated scores at known values, pasted phrases, segments that look at themselves."""

import pytest
import torch
from single_steps import LAYOUTS, PROMPTS, begun, edits, layout, randoms, regions_of

from helpers.backbones.attention import Layers, Site
from helpers.guidance.densediffusion import DenseDiffusion, modulate


def test_modulation_at_known_values():
    scores = torch.tensor([0.0, 1.0, 4.0]).view(1, 1, 1, 3)
    together = torch.tensor([True, False, True]).view(1, 1, 1, 3)
    for strength, expected in {0.0: [0, 1, 4], 0.5: [2, 0.5, 4], 1.0: [4, 0, 4]}.items():
        found = modulate(scores, together, torch.full_like(scores, strength))
        torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("i", [0, 5])
@pytest.mark.parametrize("rest", [True, False])
def test_scores_move_by_the_fading_strength_and_the_area_of_the_pixels_own_region(tiny, i, rest):
    dense = DenseDiffusion.paper(layouts=LAYOUTS, rest=rest)
    ctx = begun(tiny, PROMPTS, [dense], i=i)
    cross, within = edits(ctx, dense)
    assert (cross.layers.kind, within.layers.kind) == ("cross", "self")
    fade, site = (ctx.t.item() / 1000) ** 5, Site("x", "cross", "up", (8, 8), 0)
    scores = randoms(2, 4, 64, 77, dtype=torch.float32)
    found, top, low = cross.scores(scores, site), scores.amax(-1, keepdim=True), scores.amin(-1, keepdim=True)
    car, fish = torch.zeros(2, 8, 8, dtype=torch.bool)
    car[2:6, :4] = fish[2:6, 5:] = True
    neither, own = ~(car | fish), torch.zeros(3, 77, dtype=torch.bool)
    own[0, [2, 3]] = own[1, [7, 8]] = True  # red car, blue fish
    own[2] = ~own[:2].any(0)  # every other key: start, end, padding and the rest of the words
    areas = [1 / 4, 3 / 16, 9 / 16]
    for pixels, keys, area in zip((car, fish, neither), own, areas, strict=True):
        strength = fade * (1 - area) * (rest or pixels is not neither)
        moved = scores + strength * torch.where(keys, top - scores, low - scores)
        torch.testing.assert_close(found[0][:, pixels.flatten()], moved[0][:, pixels.flatten()])
    scores = randoms(2, 4, 64, 64, dtype=torch.float32)
    found, top, low = within.scores(scores, site), scores.amax(-1, keepdim=True), scores.amin(-1, keepdim=True)
    ball = torch.zeros(8, 8, dtype=torch.bool)
    ball[:4, 4:] = True
    for segment in (ball.flatten(), ~ball.flatten()):
        strength = 0.3 * fade * (1 - segment.float().mean()) * (rest or bool(segment[7]))
        rows = (scores + strength * torch.where(segment, top - scores, low - scores))[1]
        torch.testing.assert_close(found[1][:, segment], rows[:, segment])


def test_phrases_are_pasted_as_they_read_by_themselves(mini):
    dense = DenseDiffusion.paper(layouts=LAYOUTS)
    job = begun(mini, PROMPTS, [dense]).job
    before = job.text["tokens"]
    after = dense.encode(job.text, job, job.states[dense])["tokens"]
    alone = mini.encode_text(["red car", "blue fish", "blue ball"])["tokens"]
    for k, place, phrase in ((0, [2, 3], 0), (0, [7, 8], 1), (1, [2, 3], 2)):
        torch.testing.assert_close(after[k, place], alone[phrase, 1:3])
        assert (after[k, place] - before[k, place]).abs().max() > 0.01
    kept = torch.ones(2, 77, dtype=torch.bool)
    kept[0, [2, 3, 7, 8]] = kept[1, [2, 3]] = False
    assert torch.equal(after[kept], before[kept]) and job.text["tokens"] is before


def test_self_attention_of_the_segments_grows_in_a_run(mini):
    """Through the real layers: pixels of the car look more at the car."""
    site = Layers("self", places=("down",), ranks=(2,))
    shares = []
    for method in (DenseDiffusion.paper(layouts=LAYOUTS, self_weight=0.0), DenseDiffusion.paper(layouts=LAYOUTS)):
        ctx = begun(mini, PROMPTS, [method], i=0)
        with torch.no_grad(), mini.attention(2, [site], edits(ctx, method)) as seen:
            mini.predict(ctx.x_t, ctx.t, ctx.job.text)
        car = regions_of(mini, *LAYOUTS).places(16, 16)[0, 0].flatten() > 0.5
        (maps,) = seen.maps.values()
        shares.append(maps[0][:, car][..., car].sum(-1).mean())
    assert shares[1] > shares[0] + 0.01


def test_a_region_smaller_than_a_cell_pulls_its_phrase_up_there(tiny):
    """Not down everywhere."""
    small = layout("a red car", red_car=(0.3, 0.3, 0.36, 0.36))
    dense = DenseDiffusion(layouts=small, self_weight=0.0)
    (edit,) = edits(begun(tiny, [small.prompt], [dense], i=0), dense)
    scores = randoms(1, 4, 64, 77, dtype=torch.float32)
    grown = (edit.scores(scores, Site("x", "cross", "up", (8, 8), 0)) > scores)[0, ..., 3].all(0).view(8, 8)
    assert grown.nonzero().tolist() == [[2, 2]]
