"""What all trainings share, and mini-sd's parts: optimisers, resuming, the latents' scale, the tokenizer."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from helpers.miniature.captions import random_caption
from helpers.miniature.world import random_scene, render
from helpers.paths import weights
from helpers.training import diffusion, text
from helpers.training.autoencoder import build, normalise, to_tensor
from helpers.training.loop import Scenes, fit, history, trapezoid
from helpers.training.muon import orthogonalise


def scenes(count, seed=0):
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


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
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert 0.6 < values.min() and values.max() < 1.3


def line_loss(model, x, generator):
    error = (model(x.float()) - x.flip(-1).float()).square().mean()
    return error, {"error": error.detach()}


def test_trapezoid():
    rate = [trapezoid(step, 100, 10) for step in range(100)]
    assert rate[0] == 0.1 and rate[9:70] == [1] * 61 and rate[99] == pytest.approx(1 / 30)


def run(folder, steps=20, batch=4, lr=0.1, stop=None, minutes=5.0, warmup=1):
    """A run of `steps`, killed during step `stop`; a checkpoint after every step where minutes is 0."""
    torch.manual_seed(0)
    data = Scenes(0, lambda scene, rng: rng.normal(size=16), length=steps * batch)
    seen = []

    def loss(model, x, generator):
        seen.append(x)
        if generator.initial_seed() == stop:
            raise KeyboardInterrupt
        return line_loss(model, x, generator)

    model = torch.nn.Linear(16, 16)
    model = fit(model, data, loss, folder, steps, batch, lr, warmup=warmup, every=5, checkpoint_minutes=minutes)
    return model, len(seen)


def kill(folder, stop, **how):
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop=stop, **how)


def logged(folder):
    return [line["step"] for line in history(folder)]


def test_a_finished_run_returns_at_once(tmp_path):
    whole, steps = run(tmp_path)
    again, more = run(tmp_path)
    assert (steps, more) == (20, 0) and torch.equal(whole.weight, again.weight)
    assert logged(tmp_path) == [5, 10, 15, 20]


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path):
    whole, _ = run(tmp_path / "whole")
    kill(tmp_path / "parts", stop=14, minutes=0)
    assert logged(tmp_path / "parts") == [5, 10]
    parts, steps = run(tmp_path / "parts")
    assert steps == 7 and logged(tmp_path / "parts") == [5, 10, 15, 20]
    torch.testing.assert_close(parts.weight, whole.weight, atol=1e-5, rtol=1e-5)
    # the line of step 15 is the mean of the two steps that the second part saw
    errors = [[line["error"] for line in history(tmp_path / name)] for name in ("whole", "parts")]
    assert errors[1] == pytest.approx(errors[0], rel=0.4)


@pytest.mark.parametrize("torn", ["", '{"step": 1', "\x00\x00"])
def test_the_log_repeats_no_step_whatever_the_kill_left(tmp_path, torn):
    kill(tmp_path, stop=8, minutes=0)
    state = (tmp_path / "state.pt").read_bytes()
    kill(tmp_path, stop=14, minutes=0)
    (tmp_path / "state.pt").write_bytes(state)  # as if steps 8 to 13 had had no checkpoint yet
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write(torn)
    assert run(tmp_path)[1] == 13 and logged(tmp_path) == [5, 10, 15, 20]
    (tmp_path / "state.pt").unlink()
    assert run(tmp_path)[1] == 20 and logged(tmp_path) == [5, 10, 15, 20], "without a checkpoint it begins anew"


def test_a_run_may_be_prolonged_until_its_learning_rate_falls(tmp_path):
    whole, _ = run(tmp_path / "whole", steps=30)
    kill(tmp_path / "parts", stop=15, steps=20, minutes=0)  # the last step at the full rate is the 15th
    parts, steps = run(tmp_path / "parts", steps=30)
    assert steps == 16 and logged(tmp_path / "parts") == [5, 10, 15, 20, 25, 30]
    torch.testing.assert_close(parts.weight, whole.weight, atol=1e-5, rtol=1e-5)
    kill(tmp_path / "late", stop=16, steps=20, minutes=0)
    with pytest.raises(ValueError, match="began with steps 20, not 30: set these as they were to go on, or remove"):
        run(tmp_path / "late", steps=30)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"lr": 0.2}, "began with lr 0.1, not 0.2"),
        ({"batch": 8}, "began with batch 4, not 8"),
        ({"steps": 9}, "began with steps 20, not 9"),
        ({"warmup": 3, "lr": 0.05}, "began with lr 0.1, not 0.05, warmup 1, not 3"),
    ],
)
def test_another_plan_than_the_run_began_with_is_refused(tmp_path, other, said):
    kill(tmp_path, stop=8, minutes=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"{said}: set these as they were to go on, or remove the folder"):
        run(tmp_path, **other)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before, "nothing was touched"


def test_a_run_that_does_not_say_how_it_began_is_refused(tmp_path):
    run(tmp_path)
    state = torch.load(tmp_path / "state.pt")
    torch.save({name: value for name, value in state.items() if name != "plan"}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="does not say with which numbers it began: remove the folder"):
        run(tmp_path)


def test_mini_sd_goes_on_from_trained_weights(tmp_path):
    trained = StableDiffusionPipeline.from_pretrained(weights("mini-sd"))
    recipe = {"steps": 1, "batch": 2, "lr": 0.0, "scenes": 4}
    pipe = diffusion.train(tmp_path, trained.vae, None, **recipe, start=trained)
    for part in ("unet", "text_encoder"):
        before, after = getattr(trained, part).state_dict(), getattr(pipe, part).state_dict()
        assert all(torch.equal(before[name].cpu(), after[name].cpu()) for name in before)
    with pytest.raises(ValueError, match="scenes holds 4 encoded scenes, not 6: ask for as many"):
        diffusion.train(tmp_path, trained.vae, None, **recipe | {"scenes": 6}, start=trained)
    pipe.save_pretrained(tmp_path / "saved")
    assert str(weights("mini-sd")) not in (tmp_path / "saved" / "vae" / "config.json").read_text()
