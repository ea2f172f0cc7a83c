"""Attention recorded and edited: what Q and K give, only where asked, with its graph; then all is as before."""

import copy
import time
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from helpers.backbones.attention import Edit, Layers, attention, sites
from helpers.backbones.backbone import Backbone
from helpers.backbones.load import wrap

PROMPTS = ["a red car", "a blue fish on the grass", "a red ball left of a blue car"]
T = torch.tensor(400)
CROSS, SELF = Layers("cross"), Layers("self")


@pytest.fixture(params=["tiny", "mini"])
def either(request) -> Backbone:
    return request.getfixturevalue(request.param)


def noise(backbone, n=3, dtype=torch.float32):
    return torch.randn(n, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@torch.no_grad()
def predicted(backbone, read=(), edits=(), images=3, x_t=None):
    """The prediction for PROMPTS and what was recorded of the first `images`."""
    x_t = noise(backbone) if x_t is None else x_t
    with attention(backbone.pipe.unet, x_t.shape[-2:], images, read, edits) as seen:
        return backbone.predict(x_t, T, backbone.encode_text(PROMPTS)), seen


def raised(token, by=3.0):
    """An edit of scores: `by` is added to one token's column."""
    return lambda scores, site: scores + by * F.one_hot(torch.tensor(token), scores.size(-1))


# --- which layers there are ------------------------------------------------------------------------------------------


def test_sites_of_the_tiny_unet(tiny):
    found = list(sites(tiny.denoiser, (16, 16)))
    places = ["down", "mid", "up", "up"]
    for kind in ("cross", "self"):
        assert sorted(site.place for site in found if site.kind == kind) == places
    assert {(site.grid, site.rank) for site in found} == {((8, 8), 0)} and len(found) == 8


def test_sites_of_mini_sd(mini):
    found = list(sites(mini.denoiser, (16, 16)))
    ranks = {(place, rank): n for place, n in (("down", 1), ("up", 2)) for rank in (0, 1, 2)} | {("mid", 0): 1}
    for kind in ("cross", "self"):
        own = [site for site in found if site.kind == kind]
        assert len(own) == 10
        assert {key: sum((s.place, s.rank) == key for s in own) for key in ranks} == ranks
    assert {(site.rank, site.grid) for site in found} == {(0, (4, 4)), (1, (8, 8)), (2, (16, 16))}
    assert all(
        module is mini.pipe.unet.get_submodule(site.name) for site, module in sites(mini.denoiser, (16, 16)).items()
    )


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (10, 18)])
def test_grid_is_the_layers_own_also_of_other_pictures(mini, size):
    _, seen = predicted(mini, [CROSS, SELF], x_t=torch.randn(3, 4, *size))
    assert len(seen.maps) == 20
    for site, maps in seen.maps.items():
        height, width = site.grid
        assert abs(height / width - size[0] / size[1]) < 0.1
        assert maps.shape[2:] == (height * width, 77 if site.kind == "cross" else height * width)


def test_layers_are_chosen_by_kind_place_rank_and_cells(mini):
    every = sites(mini.denoiser, (16, 16))
    for layers, count in {
        Layers(): 10,
        SELF: 10,
        Layers(places=("mid", "up")): 7,
        Layers(ranks=(1,)): 3,
        Layers(cells=(8,)): 3,
        Layers(places=("up",), cells=(4, 16)): 4,
        Layers("self", places=("down",), ranks=(0, 2)): 2,
    }.items():
        assert sum(site in layers for site in every) == count
        assert len(predicted(mini, [layers], images=1)[1].maps) == count


def test_recorded_maps_are_found_by_layers(mini):
    _, seen = predicted(mini, [Layers(places=("mid", "up"))])
    assert {site.place for site in seen.of(Layers(ranks=(0,)))} == {"mid", "up"} and len(
        seen.of(Layers(ranks=(0,)))
    ) == 3
    with pytest.raises(ValueError, match="no attention of .*self.* was recorded"):
        seen.of(SELF)
    part = seen.part([2])
    assert all(torch.equal(part.maps[site], maps[2:]) for site, maps in seen.maps.items())


# --- recording -------------------------------------------------------------------------------------------------------


def test_recorded_is_the_softmax_of_the_layers_queries_and_keys(either):
    unet, projected, hooks = either.pipe.unet, {}, []
    for site, module in sites(unet, (16, 16)).items():
        for name in ("to_q", "to_k"):

            def keep(_, given, out, key=(site, name)):
                projected[key] = out

            hooks.append(module.get_submodule(name).register_forward_hook(keep))
    _, seen = predicted(either, [CROSS, SELF])
    for hook in hooks:
        hook.remove()
    for site, module in sites(unet, (16, 16)).items():
        query, key = (projected[site, name].unflatten(-1, (module.heads, -1)) for name in ("to_q", "to_k"))
        scores = torch.einsum("bphd,bkhd->bhpk", query, key) / query.size(-1) ** 0.5
        torch.testing.assert_close(seen.maps[site], scores.exp() / scores.exp().sum(-1, keepdim=True))
        torch.testing.assert_close(seen.maps[site].sum(-1), torch.ones(seen.maps[site].shape[:-1]))


def test_recording_and_idle_edits_leave_the_prediction(either):
    plain = predicted(either)[0]
    idle = [Edit(layers, lambda scores, site: scores, lambda probs, site: probs) for layers in (CROSS, SELF)]
    torch.testing.assert_close(predicted(either, [CROSS, SELF])[0], plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(predicted(either, [CROSS], idle, images=1)[0], plain, atol=1e-5, rtol=0)


def test_masked_attention_is_masked_when_recorded(tiny):
    """An additive mask of tokens, as a U-Net hands it to its layers."""
    mask = torch.ones(3, 77, dtype=torch.bool)
    mask[:, 5:] = False
    text = tiny.encode_text(PROMPTS)
    with torch.no_grad():
        preds = []
        for read in ([], [CROSS]):
            with attention(tiny.pipe.unet, (16, 16), 2, read) as seen:
                preds.append(
                    tiny.pipe.unet(
                        noise(tiny), T, encoder_hidden_states=text["tokens"], encoder_attention_mask=mask
                    ).sample
                )
    torch.testing.assert_close(*preds, atol=1e-5, rtol=0)
    assert all(maps[..., 5:].amax() < 1e-6 and maps[..., :5].amax() > 0.1 for maps in seen.maps.values())


def test_recording_of_all_cross_attention_is_cheap(mini):
    """At most 1.5 times a plain step with CFG; the best of several tries, as others may use the machine."""
    x_t, text = noise(mini, 4), mini.encode_text(["a red car"] * 4)

    @torch.no_grad()
    def seconds(read):
        begin = time.perf_counter()
        with attention(mini.pipe.unet, x_t.shape[-2:], 2, read):
            mini.predict(x_t, T, text)
        return time.perf_counter() - begin

    def ratio():
        plain, recorded = zip(*((seconds([]), seconds([CROSS])) for _ in range(5)))
        return median(recorded) / median(plain)

    seconds([CROSS])
    assert any(ratio() < 1.5 for _ in range(6))


# --- edits -----------------------------------------------------------------------------------------------------------


def test_only_the_first_images_are_recorded_and_edited(either):
    plain = predicted(either)[0]
    changed, seen = predicted(either, [CROSS], [Edit(CROSS, raised(2)), Edit(SELF, probs=lambda p, s: p / 2)], images=1)
    assert all(len(maps) == 1 for maps in seen.maps.values())
    torch.testing.assert_close(changed[1:], plain[1:], atol=1e-5, rtol=0)
    assert (changed[0] - plain[0]).abs().max() > 1e-3


def test_added_to_one_tokens_scores_it_raises_that_column(tiny):
    """In the first layer, where the input is the same: odds grow by e^3, exactly; no other layer is touched."""
    first = Layers(places=("down",))
    before, after = (predicted(tiny, [first], edits)[1].maps for edits in ([], [Edit(first, raised(2))]))
    (a,), (b,) = before.values(), after.values()
    odds = [maps[..., 2] / (1 - maps[..., 2]) for maps in (a, b)]
    torch.testing.assert_close(odds[1] / odds[0], torch.full_like(odds[0], 3.0).exp(), rtol=1e-4, atol=0)
    others = [k for k in range(77) if k != 2]
    torch.testing.assert_close(b[..., others] / a[..., others], (b / a)[..., :1].expand(-1, -1, -1, 76))


def test_edits_of_probs_reach_the_prediction(tiny):
    """Without any cross attention the prompt is not read."""
    x_t = noise(tiny, 1).expand(3, -1, -1, -1)
    pred, seen = predicted(tiny, [CROSS], [Edit(CROSS, probs=lambda probs, site: 0 * probs)], x_t=x_t)
    assert not any(maps.any() for maps in seen.maps.values()), "recorded after the edits"
    torch.testing.assert_close(pred[0], pred[1], atol=1e-5, rtol=0)
    plain = predicted(tiny, x_t=x_t)[0]
    assert (plain[0] - plain[1]).abs().max() > 1e-3


def test_edits_act_in_their_order_and_in_their_layers(mini):
    order = []

    def note(name):
        def change(scores, site):
            order.append((name, site))
            return scores

        return change

    coarse = Layers(ranks=(0,))
    predicted(mini, edits=[Edit(coarse, note("a"), note("A")), Edit(Layers(places=("mid",)), note("b"))])
    middle = [name for name, site in order if site.place == "mid"]
    assert middle == ["a", "b", "A"]
    assert [name for name, site in order if site.place != "mid"] == ["a", "A"] * 3
    assert {site.rank for _, site in order} == {0} and {site.kind for _, site in order} == {"cross"}


# --- restored --------------------------------------------------------------------------------------------------------


def test_processors_are_restored(tiny):
    unet = tiny.pipe.unet
    before = dict(unet.attn_processors)
    predicted(tiny, [CROSS], [Edit(SELF, lambda scores, site: scores)])
    assert unet.attn_processors == before
    with pytest.raises(ArithmeticError):
        predicted(tiny, [CROSS], [Edit(SELF, lambda scores, site: 1 // 0)])
    assert unet.attn_processors == before
    with pytest.raises(KeyError), attention(unet, (16, 16), 1, [CROSS]):
        raise KeyError
    assert unet.attn_processors == before


def test_what_is_not_chosen_keeps_the_fused_kernel(tiny):
    unet = tiny.pipe.unet
    before = dict(unet.attn_processors)
    with attention(unet, (16, 16), 3) as seen:
        assert unet.attn_processors == before
    assert not seen.maps
    with attention(unet, (16, 16), 3, [CROSS]):
        changed = {name for name, processor in unet.attn_processors.items() if processor is not before[name]}
    assert changed == {f"{site.name}.processor" for site in sites(unet, (16, 16)) if site.kind == "cross"}
    assert torch.equal(predicted(tiny)[0], tiny.predict(noise(tiny), T, tiny.encode_text(PROMPTS)))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [Layers(ranks=(7,)), Layers(places=("side",)), Layers("self", ("mid",), (1,))])
def test_layers_that_are_not_there_are_refused(tiny, layers):
    for options in ({"read": [layers]}, {"edits": [Edit(layers, probs=lambda probs, site: probs)]}):
        with pytest.raises(
            ValueError,
            match="UNet2DConditionModel has no attention .* it has cross down 8, cross mid 8",
        ):
            predicted(tiny, **options)
    assert "_Explicit" not in {type(p).__name__ for p in tiny.pipe.unet.attn_processors.values()}


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'joint'.*cross.*self"):
        Layers("joint")


def test_a_processor_of_another_kind_is_named_and_the_cure_cures(tiny):
    unet = copy.deepcopy(tiny.pipe.unet)
    own, text = AttnProcessor(), tiny.encode_text(PROMPTS)
    module = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    module.processor = own
    cure = r"set_attn_processor\(AttnProcessor2_0\(\)\)"
    with (
        pytest.raises(RuntimeError, match=rf"mid_block.*attn2 runs AttnProcessor, which does not call .*{cure}"),
        attention(unet, (16, 16), 3, [CROSS]),
    ):
        unet(noise(tiny), T, text["tokens"])
    assert module.processor is own
    with attention(unet, (16, 16), 3, [Layers(places=("up",))]) as seen:
        unet(noise(tiny), T, text["tokens"])
    assert len(seen.maps) == 2, "it is in no one's way where nothing is asked of it"
    unet.set_attn_processor(AttnProcessor2_0())
    with attention(unet, (16, 16), 3, [CROSS]) as seen:
        unet(noise(tiny), T, text["tokens"])
    assert len(seen.maps) == 4


# --- the graph -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_of_a_recorded_map_is_that_of_finite_differences(tiny, checkpointing):
    double = wrap(copy.deepcopy(tiny.pipe).to(torch.float64), checkpointing)
    text, x_t = double.encode_text(PROMPTS), noise(double, dtype=torch.float64)
    passes = []
    double.pipe.unet.up_blocks[0].attentions[0].transformer_blocks[0].attn2.register_forward_pre_hook(
        lambda *_: passes.append(1)
    )

    def mixed(x_t, backward=False):
        """Squares of all maps, with an edit on the way; and its gradient."""
        edits = [Edit(CROSS, raised(2, by=0.5)), Edit(SELF, probs=lambda probs, site: probs.square())]
        with attention(double.pipe.unet, (16, 16), 2, [CROSS, SELF], edits) as seen:
            double.predict(x_t, T, text)
            total = sum(maps.square().flatten(1).sum(1) for maps in seen.maps.values())
            return torch.autograd.grad(total.sum(), x_t)[0] if backward else total.sum()

    grad = mixed(x_t.requires_grad_(), backward=True)
    assert len(passes) == 1 + checkpointing, "recomputed in the backward pass"
    assert grad[:2].any() and not grad[2:].any()
    direction = noise(double, dtype=torch.float64).flip(0)
    with torch.no_grad():
        slope = (mixed(x_t + 1e-5 * direction) - mixed(x_t - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(slope, (grad * direction).sum(), rtol=1e-6, atol=1e-8)


# --- joint attention of a transformer --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformer() -> SD3Transformer2DModel:
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pooled_projection_dim=16,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
    ).eval()


@torch.no_grad()
def joint(transformer, read=(), edits=(), images=2, size=(8, 12), tokens=5):
    g = torch.Generator().manual_seed(0)
    x_t, text, pooled = (torch.randn(3, *shape, generator=g) for shape in ((4, *size), (tokens, 24), (16,)))
    given = {"encoder_hidden_states": text, "pooled_projections": pooled, "timestep": torch.full((3,), 400)}
    with attention(transformer, size, images, read, edits) as seen:
        return transformer(x_t, **given).sample, seen


def test_joint_attention_is_two_sites_pictures_to_words_and_to_pictures(transformer):
    found = sites(transformer, (8, 12))
    assert {(site.place, site.grid, site.rank) for site in found} == {("block", (4, 6), 0)}
    named = [(site.name, site.kind, site.joint) for site in found]
    assert sorted(named) == [
        ("transformer_blocks.0.attn", "cross", True),
        ("transformer_blocks.0.attn", "self", True),
        ("transformer_blocks.0.attn2", "self", False),
        ("transformer_blocks.1.attn", "cross", True),
        ("transformer_blocks.1.attn", "self", True),
        ("transformer_blocks.2.attn", "cross", True),
        ("transformer_blocks.2.attn", "self", True),
    ]
    pred, seen = joint(transformer, [CROSS, SELF])
    torch.testing.assert_close(pred, joint(transformer)[0], atol=1e-5, rtol=0)
    for site, maps in seen.maps.items():
        assert maps.shape == (2, 4, 24, 5 if site.kind == "cross" else 24)
        if site.joint:
            both = [m for other, m in seen.maps.items() if other.name == site.name]
            torch.testing.assert_close(sum(m.sum(-1) for m in both), torch.ones(2, 4, 24))
        else:
            torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4, 24))


def test_places_and_ranks_do_not_choose_among_a_transformers_blocks(transformer):
    for layers in (Layers(places=("mid", "up"), ranks=(1,)), Layers(cells=(16,))):
        assert sum(site in layers for site in sites(transformer, (8, 12))) == 3


def test_recorded_blocks_are_those_of_the_joint_softmax(transformer):
    module, parts, hooks = transformer.transformer_blocks[1].attn, {}, []
    for name in ("to_q", "to_k", "add_k_proj"):

        def keep(_, given, out, name=name):
            parts[name] = out

        hooks.append(module.get_submodule(name).register_forward_hook(keep))
    _, seen = joint(transformer, [CROSS, SELF], images=3)
    for hook in hooks:
        hook.remove()
    query, of_pixels, of_tokens = (parts[name].unflatten(-1, (4, 8)) for name in ("to_q", "to_k", "add_k_proj"))
    scores = torch.einsum("bphd,bkhd->bhpk", query, torch.cat([of_pixels, of_tokens], 1)) / 8**0.5
    maps = {site.kind: maps for site, maps in seen.maps.items() if site.name == "transformer_blocks.1.attn"}
    torch.testing.assert_close(maps["cross"], scores.softmax(-1)[..., 24:])
    torch.testing.assert_close(maps["self"], scores.softmax(-1)[..., :24])


@pytest.mark.parametrize(("kind", "keys"), [("cross", 5), ("self", 24)])
def test_edits_of_joint_attention_change_the_chosen_block_alone(transformer, kind, keys):
    before, layers = dict(transformer.attn_processors), Layers(kind)
    plain = joint(transformer)[0]
    idle, _ = joint(transformer, edits=[Edit(layers, lambda scores, site: scores, lambda probs, site: probs)])
    torch.testing.assert_close(idle, plain, atol=1e-5, rtol=0)
    shapes = set()

    def change(scores, site):
        shapes.add(scores.shape)
        return raised(3)(scores, site)

    changed, seen = joint(transformer, [layers], [Edit(layers, change)])
    assert shapes == {(2, 4, 24, keys)}
    assert (changed[:2] - plain[:2]).abs().max() > 1e-4
    torch.testing.assert_close(changed[2:], plain[2:], atol=1e-5, rtol=0)
    first = "transformer_blocks.0.attn"
    a, b = (
        next(maps for site, maps in one.maps.items() if site.name == first)
        for one in (joint(transformer, [layers])[1], seen)
    )
    odds = [maps[..., 3] / (1 - maps[..., 3]) for maps in (a, b)]
    torch.testing.assert_close(odds[1] / odds[0], torch.full_like(odds[0], 3.0).exp(), rtol=1e-4, atol=0)
    assert transformer.attn_processors == before


# --- precision and wrapping ------------------------------------------------------------------------------------------


def test_half_precision_attention_is_computed_and_recorded_in_float32(tiny):
    half = wrap(copy.deepcopy(tiny.pipe).to(torch.bfloat16))
    exact, coarse = (predicted(backbone, [CROSS], x_t=noise(tiny).to(backbone.dtype)) for backbone in (tiny, half))
    for a, b in zip(exact[1].maps.values(), coarse[1].maps.values(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(b.sum(-1), torch.ones(b.shape[:-1]))
        torch.testing.assert_close(b, a, atol=0.02, rtol=0)
    assert coarse[0].dtype == torch.bfloat16


def test_a_compiled_unet_has_the_same_sites(tiny):
    compiled = torch.compile(tiny.denoiser)
    assert list(sites(compiled, (16, 16))) == list(sites(tiny.denoiser, (16, 16)))
