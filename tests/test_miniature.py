"""The miniature world: what is drawn is what is stated; training resumes where it stopped."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from scipy.ndimage import binary_dilation

from helpers.conditions import decode_mask
from helpers.miniature import benchmark, diffusion, text, training
from helpers.miniature.autoencoder import build, normalise, to_tensor
from helpers.miniature.captions import PLACES, describe, long_caption, random_caption, short_caption
from helpers.miniature.world import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    KINDS,
    SIDE,
    Scene,
    Thing,
    is_held_out,
    mask_box,
    move,
    random_scene,
    render,
)
from helpers.paths import weights


def scenes(count, seed=0, **kinds):
    rng = np.random.default_rng(seed)
    return [random_scene(rng, **kinds) for _ in range(count)]


def ball(x, y, color="red", side=21):
    return Thing("ball", color, "plain", "small", side, x, y)


def test_same_seed_same_scene():
    first, second = scenes(20), scenes(20)
    assert first == second
    assert all((render(a).image == render(b).image).all() for a, b in zip(first, second))
    assert first != scenes(20, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_is_at_least_16_px_and_has_its_colour(kind):
    for color in COLORS:
        drawn = render(Scene("snow", (Thing(kind, color, "plain", "small", 19, 32, 32),)))
        x0, y0, x1, y1 = drawn.boxes[0]
        assert max(x1 - x0, y1 - y0) >= 16
        inside = drawn.image[drawn.visible[0]].astype(int)
        close = (np.abs(inside - COLORS[color]).sum(1) < 12).mean()
        assert close > 0.25, f"only {close:.2f} of a {color} {kind} is {color}"


def test_masks_are_disjoint_and_explain_the_image():
    for scene in scenes(50, n=4):
        drawn = render(scene)
        assert drawn.visible.sum(0).max() <= 1
        assert (drawn.visible <= drawn.amodal).all()
        assert all(mask_box(m) == tuple(b) for m, b in zip(drawn.amodal, drawn.boxes))
        empty = render(Scene(scene.background, ())).image.astype(int)
        changed = np.abs(drawn.image.astype(int) - empty).sum(-1) > 0
        assert changed[drawn.visible.any(0)].mean() > 0.98
        assert not changed[~binary_dilation(drawn.amodal.any(0), iterations=3)].any()  # thin tips fade out


def test_nearer_objects_hide_farther_ones():
    behind, front = ball(30, 32), ball(36, 32, "blue")
    drawn = render(Scene("sky", (behind, front)))
    assert (drawn.visible[1] == drawn.amodal[1]).all()
    assert drawn.visible[0].sum() < drawn.amodal[0].sum()


def test_mask_box():
    mask = np.zeros((8, 8), bool)
    assert mask_box(mask) == (0, 0, 0, 0)
    mask[2:4, 1:7] = True
    assert mask_box(mask) == (1, 2, 7, 4)


def test_move_gives_the_exact_flow():
    scene = Scene("grass", (ball(20, 30), ball(48, 30, "blue")))
    edited, flow = move(scene, 0, 5, -3)
    before, after = render(scene), render(edited)
    ys, xs = np.nonzero(before.visible[0])
    assert (flow[:, ys, xs].T == [5, -3]).all()
    assert (flow[:, ~before.visible[0]] == 0).all()
    core = [(y, x) for y, x in zip(ys, xs) if before.visible[0][y - 2 : y + 3, x - 2 : x + 3].all()]
    assert all((after.image[y - 3, x + 5] == before.image[y, x]).all() for y, x in core)


def test_an_object_may_leave_the_image():
    drawn = render(Scene("sand", (ball(0, 32, side=20),)))
    assert 0 < drawn.amodal.sum() < render(Scene("sand", (ball(32, 32, side=20),))).amodal.sum()


def test_held_out_compositions():
    assert not any(is_held_out(s) for s in scenes(200, held_out=False))
    assert all(is_held_out(s) for s in scenes(50, held_out=True))
    assert len(HELD_OUT) == len(KINDS) == len({kind for kind, _ in HELD_OUT})


def test_objects_stay_visible_and_inside():
    for scene in scenes(200):
        drawn = render(scene)
        assert (drawn.visible.sum((1, 2)) >= 0.6 * drawn.amodal.sum((1, 2))).all()
        for t in scene.things:
            assert 0 <= t.x - t.side // 2 and t.x - t.side // 2 + t.side <= SIDE


@pytest.mark.parametrize("write", [short_caption, long_caption])
def test_captions_name_every_object_and_tell_the_truth(write):
    rng = np.random.default_rng(3)
    for scene in scenes(150):
        caption = write(scene, rng)
        assert {p.thing for p in caption.phrases} == set(range(len(scene.things)))
        for p in caption.phrases:
            thing = scene.things[p.thing]
            assert caption.text[p.start : p.stop] == p.text
            assert thing.color in p.text and thing.kind in p.text
        assert PLACES[scene.background] in caption.text
        for a, word, b in caption.relations:
            one, two = scene.things[a], scene.things[b]
            truth = {
                "left of": one.x < two.x,
                "right of": one.x > two.x or one.x == two.x,
                "above": one.y < two.y,
                "below": one.y > two.y or one.y == two.y,
                "in front of": a > b,
                "behind": a < b,
            }
            assert truth[word], (caption.text, word)


def test_every_attribute_stands_in_the_long_caption():
    rng = np.random.default_rng(4)
    for scene in scenes(50):
        caption = long_caption(scene, rng).text
        for i in range(len(scene.things)):
            assert describe(scene, i, size=True) in caption


def test_tokenizer_round_trip(tmp_path):
    words = text.tokenizer()
    assert all(len(words.tokenize(w)) == 1 for w in text.WORDS)
    words.save_pretrained(tmp_path)
    again = type(words).from_pretrained(tmp_path)
    rng = np.random.default_rng(5)
    longest = 0
    for scene in scenes(200):
        caption = random_caption(scene, rng).text
        ids = words(caption)["input_ids"]
        assert ids == again(caption)["input_ids"]
        assert words.unk_token_id not in ids[1:-1]
        longest = max(longest, len(ids))
    assert longest <= text.WINDOW
    assert again.model_max_length == text.WINDOW


def test_benchmark_cases_follow_from_their_seed():
    for split, counts in benchmark.SPLITS.items():
        case = benchmark.make_case(split, 7, counts[7])
        assert case == benchmark.make_case(split, 7, counts[7])
        assert case == benchmark.load_captioned(split, "short")[7]
        assert case.model_copy(update={"relations": ()}) == benchmark.load_cases(split)[7]
        assert len(case.things) == counts[7]
        for region, thing in zip(case.layout.regions, case.things):
            assert thing.kind in region.phrase and thing.color in region.phrase
            assert mask_box(decode_mask(region.mask)) == tuple(v * SIDE for v in region.box)


def test_stored_scenes_are_what_the_renderer_draws():
    arrays, captions = benchmark.load_scenes()
    assert len(captions) == len(arrays["images"]) == 1000
    for i in range(0, 1000, 111):
        drawn = render(benchmark.scene_of(arrays, i))
        assert (drawn.image == arrays["images"][i]).all()
        assert (drawn.visible == arrays["visible"][i, : len(drawn.visible)]).all()
    assert not any(is_held_out(benchmark.scene_of(arrays, i)) for i in range(800))
    assert set(arrays["background"]) == set(range(len(BACKGROUNDS)))


def test_missing_data_says_dvc_pull(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "DATA", tmp_path / "data")
    benchmark.load_cases.cache_clear()
    with pytest.raises(FileNotFoundError, match="dvc pull"):
        benchmark.load_cases("dev")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="unknown split 'train'; choose one of dev, test, many"):
        benchmark.load_cases("train")


def test_normalise_changes_latents_not_images():
    model = build().eval()
    images = torch.from_numpy(np.stack([render(s).image for s in scenes(16)]))
    with torch.no_grad():
        before = model.decode(model.encode(to_tensor(images)).latent_dist.mean).sample
        normalise(model, images)
        posterior = model.encode(to_tensor(images)).latent_dist
        after = model.decode(posterior.mean).sample
    assert torch.allclose(before, after, atol=1e-3)
    assert posterior.mean.mean((0, 2, 3)).abs().max() < 1e-4
    assert abs(posterior.mean.square().mean() - 1) < 1e-3


def test_orthogonalise_brings_singular_values_together():
    torch.manual_seed(0)
    for shape in [(24, 60), (60, 24)]:
        values = torch.linalg.svdvals(training.orthogonalise(torch.randn(shape)))
        assert 0.6 < values.min() and values.max() < 1.3


def line_loss(model, x, generator):
    error = (model(x.float()) - x.flip(-1).float()).square().mean()
    return error, {"error": error.detach()}


def test_trapezoid():
    rate = [training.trapezoid(step, 100, 10) for step in range(100)]
    assert rate[0] == 0.1 and rate[9:70] == [1] * 61 and rate[99] == pytest.approx(1 / 30)


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path):
    def run(folder, steps, schedule):
        torch.manual_seed(0)
        data = training.Scenes(0, lambda scene, rng: rng.normal(size=16), length=schedule * 4)
        return training.fit(torch.nn.Linear(16, 16), data, line_loss, folder, steps, 4, 0.1, warmup=1, every=5)

    whole = run(tmp_path / "whole", 20, 20)
    assert [line["step"] for line in training.history(tmp_path / "whole")] == [5, 10, 15, 20]
    again = run(tmp_path / "whole", 20, 20)  # finished: returns at once
    assert torch.equal(whole.weight, again.weight)
    run(tmp_path / "parts", 10, 20)
    resumed = training.history(tmp_path / "parts")[-1]["step"]
    run(tmp_path / "parts", 20, 20)
    steps = [line["step"] for line in training.history(tmp_path / "parts")]
    assert resumed == 10 and steps == [5, 10, 15, 20]
    (tmp_path / "odd").mkdir()
    run(tmp_path / "odd", 8, 20)
    run(tmp_path / "odd", 20, 20)  # the line of step 10 is the mean of the two steps that it saw
    errors = [[line["error"] for line in training.history(tmp_path / name)] for name in ("whole", "odd")]
    assert errors[1] == pytest.approx(errors[0], rel=0.4)


def test_mini_sd_goes_on_from_trained_weights(tmp_path):
    trained = StableDiffusionPipeline.from_pretrained(weights("mini-sd"))
    recipe = {"steps": 1, "batch": 2, "lr": 0.0, "bank": 4}
    pipe = diffusion.train(tmp_path, trained.vae, None, **recipe, start=trained)
    for part in ("unet", "text_encoder"):
        before, after = getattr(trained, part).state_dict(), getattr(pipe, part).state_dict()
        assert all(torch.equal(before[name].cpu(), after[name].cpu()) for name in before)
    pipe.save_pretrained(tmp_path / "saved")
    assert str(weights("mini-sd")) not in (tmp_path / "saved" / "vae" / "config.json").read_text()
