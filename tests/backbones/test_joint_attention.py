"""Attention of joint blocks: what queries and keys give, edited as asked, restored after, as exact as the kernel."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_pipelines import tiny_backbone

from helpers.backbones.attention import Edit, Layers, sites

PROMPTS = ["a red car", "a blue fish on the grass", "a red ball left of a blue car"]
T = torch.tensor(400.0)
CROSS, SELF = Layers("cross"), Layers("self")
JOINT = ["sd3", "sd3_without_t5", "sd35"]
EVERY = ["sd15", "sd21", "sdxl", *JOINT]


def noise(backbone, n=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *backbone.latent_shape, generator=generator).to(backbone.dtype)


@torch.no_grad()
def predicted(backbone, read=(), edits=(), images=3):
    """The prediction for PROMPTS and what was recorded of the first `images`."""
    with backbone.attention(images, read, edits) as seen:
        return backbone.predict(noise(backbone), T, backbone.encode_text(PROMPTS)), seen


def processors(backbone):
    return {
        name: module.processor for name, module in backbone.denoiser.named_modules() if hasattr(module, "processor")
    }


@pytest.mark.parametrize("name, joint, dual", [("sd3", 3, 0), ("sd3_without_t5", 3, 0), ("sd35", 3, 2)])
def test_a_block_is_cross_and_self(name, joint, dual):
    found = list(sites(tiny_backbone(name).denoiser, (16, 24)))
    assert sum(site.kind == "cross" for site in found) == joint
    assert sum(site.kind == "self" and site.joint for site in found) == joint
    assert sum(site.kind == "self" and not site.joint for site in found) == dual
    assert {(site.place, site.grid, site.rank) for site in found} == {("block", (8, 12), 0)}


@pytest.mark.parametrize("name, grids", [("sd15", {(16, 24), (8, 12)}), ("sdxl", {(8, 12), (4, 6)})])
def test_unet_layers_by_cells_and_rank(name, grids):
    found = sites(tiny_backbone(name).denoiser, (16, 24))
    assert {site.grid for site in found} == grids
    for site in found:
        assert site.rank == sorted(grids).index(site.grid)
        assert (site in Layers(site.kind, ranks=(0,))) == (site.rank == 0)
        assert (site in Layers(site.kind, cells=(8,))) == (site.grid == (8, 12))
        assert site not in Layers("self" if site.kind == "cross" else "cross")
    up = [site for site in found if site in Layers("cross", places=("up",), cells=(8,))]
    assert up and all(site.place == "up" and site.grid == (8, 12) for site in up)


@pytest.mark.parametrize("name", JOINT)
@torch.no_grad()
def test_joint_maps_are_softmax_of_queries_and_keys(name):
    """From the projections of the block itself, over pixels and words together."""
    backbone, inputs = tiny_backbone(name), {}

    def keep(module, args, kwargs):
        inputs[module] = kwargs["hidden_states"], kwargs["encoder_hidden_states"]

    blocks = [block.attn for block in backbone.denoiser.transformer_blocks]
    handles = [attn.register_forward_pre_hook(keep, with_kwargs=True) for attn in blocks]
    _, seen = predicted(backbone, [CROSS, SELF])
    for handle in handles:
        handle.remove()

    def heads(x, attn):
        return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    for n, attn in enumerate(blocks):
        pixels, words = inputs[attn]
        query = heads(attn.to_q(pixels), attn)
        keys, words = heads(attn.to_k(pixels), attn), heads(attn.add_k_proj(words), attn)
        if name == "sd35":
            query, keys, words = attn.norm_q(query), attn.norm_k(keys), attn.norm_added_k(words)
        together = torch.cat([keys, words], 2)
        expected = torch.softmax(query @ together.mT * query.size(-1) ** -0.5, -1)
        maps = {site.kind: maps for site, maps in seen.maps.items() if site.name == f"transformer_blocks.{n}.attn"}
        torch.testing.assert_close(maps["self"], expected[..., : pixels.size(1)], atol=1e-5, rtol=0)
        torch.testing.assert_close(maps["cross"], expected[..., pixels.size(1) :], atol=1e-5, rtol=0)
        assert maps["cross"].size(-1) == backbone.tokens.total


@pytest.mark.parametrize("name", EVERY)
def test_recording_leaves_the_prediction(name):
    backbone = tiny_backbone(name)
    plain, nothing = predicted(backbone)
    watched, seen = predicted(backbone, [CROSS, SELF])
    torch.testing.assert_close(watched, plain, atol=1e-5, rtol=0)
    assert not nothing.maps and set(seen.maps) == set(sites(backbone.denoiser, (16, 16)))
    for site, maps in seen.maps.items():
        assert maps.shape[0] == 3 and maps.shape[2] == site.grid[0] * site.grid[1]
    for site, maps in seen.maps.items():  # a row of a joint block is shared out among words and pixels
        both = (
            sum(m.sum(-1) for other, m in seen.maps.items() if other.name == site.name) if site.joint else maps.sum(-1)
        )
        torch.testing.assert_close(both, torch.ones_like(both), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", ["cross", "self"])
def test_scores_of_either_kind_are_edited(name, kind):
    """What is raised gains attention; the other keys of the same row lose it; other rows of the batch stay."""
    backbone = tiny_backbone(name)
    layers = Layers(kind)
    raised = Edit(layers, scores=lambda scores, site: scores + 5.0 * F.one_hot(torch.tensor(2), scores.size(-1)))
    plain, before = predicted(backbone, [layers])
    changed, after = predicted(backbone, [layers], [raised], images=1)
    first = next(iter(after.maps))  # of the first layer, whose input is the same
    gained = (after.maps[first] - before.maps[first])[:1]
    assert gained[..., 2].min() >= 0 and gained[..., 2].mean() > 1e-3
    assert gained[..., 5].max() <= 0 and gained[..., 5].mean() < 0
    assert (changed[0] - plain[0]).abs().max() > 1e-4
    torch.testing.assert_close(changed[1:], plain[1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", ["cross", "self"])
def test_probabilities_of_either_kind_are_edited(name, kind):
    backbone, layers = tiny_backbone(name), Layers(kind)
    plain, before = predicted(backbone, [layers])
    same, _ = predicted(backbone, [], [Edit(layers, probs=lambda probs, site: probs * 1.0)])
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=0)
    none, after = predicted(backbone, [layers], [Edit(layers, probs=lambda probs, site: 0 * probs)])
    assert all(not maps.any() for maps in after.maps.values()) and (none - plain).abs().max() > 1e-4


@pytest.mark.parametrize("name", JOINT)
def test_words_still_look_as_they_did(name):
    """Edits concern the pictures' rows: with a single block's edit the rows of the words are the kernel's own."""
    backbone, outputs = tiny_backbone(name), []
    attn = backbone.denoiser.transformer_blocks[0].attn
    handle = attn.register_forward_hook(lambda module, args, out: outputs.append(out))
    predicted(backbone)
    predicted(backbone, [], [Edit(CROSS, scores=lambda scores, site: scores + 3.0)])
    handle.remove()
    (pixels, words), (moved, kept) = outputs
    torch.testing.assert_close(kept, words, atol=1e-4, rtol=0)
    assert (moved - pixels).abs().max() > 1e-4


@pytest.mark.parametrize("name", EVERY)
def test_layers_are_restored_after_an_exception(name):
    backbone = tiny_backbone(name)
    before, plain = processors(backbone), predicted(backbone)[0]

    def fail(scores, site):
        raise KeyError("an edit")

    with pytest.raises(KeyError, match="an edit"):
        predicted(backbone, [SELF], [Edit(CROSS, scores=fail)])
    assert processors(backbone) == before
    assert torch.equal(predicted(backbone)[0], plain)


@pytest.mark.parametrize("name", EVERY)
def test_maps_keep_their_graph(name):
    backbone = tiny_backbone(name)
    x_t = noise(backbone).requires_grad_()
    with backbone.attention(3, [CROSS]) as seen:
        backbone.predict(x_t, T, backbone.encode_text(PROMPTS))
    loss = sum(maps[..., 2].sum() for maps in seen.of(CROSS).values())
    (grad,) = torch.autograd.grad(loss, x_t)
    assert grad.isfinite().all() and (grad.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("name", ["sd21", "sdxl", "sd3", "sd35"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_careful_as_the_kernel(name, dtype):
    exact = predicted(tiny_backbone(name))[0]
    half = copy.deepcopy(tiny_backbone(name))
    half.pipe.to(dtype)
    half.dtype = dtype
    fused = (predicted(half)[0].float() - exact).square().mean().sqrt()
    ours, seen = predicted(half, [CROSS, SELF])
    assert ours.dtype == dtype and all(maps.dtype == torch.float32 for maps in seen.maps.values())
    assert 0 < (ours.float() - exact).square().mean().sqrt() < 1.2 * fused


@pytest.mark.parametrize("name, stance", [("sd15", "force_eager"), ("sdxl", "force_eager"), ("sd3", "default")])
def test_a_compiled_denoiser_is_recorded_and_edited(name, stance):
    """Wrapped alone, which costs little, and really traced."""
    backbone = copy.deepcopy(tiny_backbone(name))
    edit = Edit(CROSS, scores=lambda scores, site: scores + 5.0 * F.one_hot(torch.tensor(2), scores.size(-1)))
    expected, maps = predicted(backbone, [CROSS, SELF], [edit])
    plain = predicted(backbone)[0]
    compiled = torch.compile(backbone.denoiser, backend="eager")
    setattr(backbone.pipe, "transformer" if name == "sd3" else "unet", compiled)
    assert backbone.denoiser is compiled
    with torch.compiler.set_stance(stance):
        for _ in range(2):  # also after a run without edits was compiled
            found, seen = predicted(backbone, [CROSS, SELF], [edit])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            assert list(seen.maps) == list(maps.maps)
            torch.testing.assert_close(predicted(backbone)[0], plain, atol=1e-5, rtol=0)


def test_layers_that_are_not_there_are_refused_with_those_that_are():
    with pytest.raises(ValueError, match="layers have no kind 'words': use one of cross, self"):
        Layers("words")
    with pytest.raises(ValueError, match=r"UNet2DConditionModel has no attention .*cells=\(5,\).*cross down 16"):
        predicted(tiny_backbone("sd15"), [Layers("cross", cells=(5,))])


def test_words_of_layers_do_not_choose_among_blocks():
    """A transformer has one resolution and no places, so what a U-Net's method asks for is every block."""
    _, seen = predicted(tiny_backbone("sd3"), [Layers("cross", places=("up",), ranks=(1,), cells=(16,))])
    assert len(seen.maps) == 3
