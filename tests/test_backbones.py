"""Backbone: conversions between predictions, agreement with diffusers, loading and its refusals."""

import pytest
import torch

import helpers.paths
from helpers.backbones import BACKBONES, Backbone, load_backbone


@pytest.fixture
def noisy(backbone):
    """x0, eps and the x_t that they make at t, with the model's exact prediction."""
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, *backbone.latent_shape, generator=g), torch.randn(2, *backbone.latent_shape, generator=g)
    t = torch.tensor(600)
    ab = backbone.alpha_bar(t)
    x_t = ab.sqrt() * x0 + (1 - ab).sqrt() * eps
    kind = backbone.pipe.scheduler.config.prediction_type
    pred = {"epsilon": eps, "v_prediction": ab.sqrt() * eps - (1 - ab).sqrt() * x0}[kind]
    return x0, eps, x_t, t, pred


def test_conversions_are_exact(backbone, noisy):
    x0, eps, x_t, t, pred = noisy
    torch.testing.assert_close(backbone.to_eps(pred, x_t, t), eps, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.to_x0(pred, x_t, t), x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.from_eps(eps, x_t, t), pred, atol=1e-5, rtol=0)


def test_shift_moves_eps_and_rests_at_zero(backbone, noisy):
    _, eps, x_t, t, pred = noisy
    delta = torch.randn_like(eps)
    torch.testing.assert_close(backbone.to_eps(backbone.shift(pred, delta, t), x_t, t), eps + delta, atol=1e-5, rtol=0)
    assert torch.equal(backbone.shift(pred, torch.zeros_like(pred), t), pred)


def test_x0_agrees_with_the_scheduler(backbone, noisy):
    _, _, x_t, t, pred = noisy
    scheduler = backbone.scheduler()
    scheduler.set_timesteps(10)
    theirs = scheduler.step(pred, t, x_t).pred_original_sample
    torch.testing.assert_close(backbone.to_x0(pred, x_t, t), theirs, atol=1e-5, rtol=0)


def test_decode_encode_shapes_and_frozen(tiny):
    latents = torch.randn(2, *tiny.latent_shape)
    with torch.no_grad():
        images = tiny.decode(latents)
        assert images.shape == (2, 3, *tiny.image_size)
        assert tiny.encode(images.clamp(0, 1)).shape == latents.shape
    assert not any(p.requires_grad for m in (tiny.pipe.unet, tiny.pipe.vae) for p in m.parameters())


def test_scheduler_is_a_copy(tiny):
    before = tiny.pipe.scheduler.num_inference_steps
    tiny.scheduler().set_timesteps(33)
    assert tiny.pipe.scheduler.num_inference_steps == before


def test_half_precision_folder_loads_as_float32(tmp_path, make_pipeline):
    pipe = make_pipeline()
    pipe.to(torch.float16).save_pretrained(tmp_path / "half")
    loaded = load_backbone(tmp_path / "half", device="cpu")
    parts = (loaded.pipe.unet, loaded.pipe.vae, loaded.pipe.text_encoder)
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.float32}
    with torch.no_grad():
        text = loaded.encode_text(["a red car"])
        assert loaded.predict(torch.zeros(1, *loaded.latent_shape), torch.tensor(5), text).dtype == torch.float32


def test_checkpointing_recomputes_the_same_gradient(tmp_path, make_pipeline):
    make_pipeline().save_pretrained(tmp_path / "tiny")
    calls, grads = [], []
    for checkpointing in (False, True):
        backbone = load_backbone(tmp_path / "tiny", device="cpu", checkpointing=checkpointing)
        backbone.pipe.unet.up_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
        x_t = torch.ones(1, *backbone.latent_shape, requires_grad=True)
        pred = backbone.predict(x_t, torch.tensor(5), backbone.encode_text(["a red car"]))
        grads += torch.autograd.grad(backbone.decode(backbone.to_x0(pred, x_t, torch.tensor(5))).square().sum(), x_t)
    torch.testing.assert_close(*grads)
    assert len(calls) == 3  # once without, twice with


def test_unknown_backbone_lists_the_known():
    with pytest.raises(ValueError) as error:
        load_backbone("mini-sd9")
    assert "'mini-sd9'" in str(error.value) and all(name in str(error.value) for name in BACKBONES)


def test_missing_weights_say_dvc_pull(monkeypatch, tmp_path):
    monkeypatch.setattr(helpers.paths, "MODELS", tmp_path)
    with pytest.raises(FileNotFoundError, match="'mini-sd' .* run `dvc pull models/mini-sd`"):
        load_backbone("mini-sd")


def test_unknown_prediction_type_is_refused(make_pipeline):
    pipe = make_pipeline()
    pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="prediction_type is 'sample': this loop serves epsilon, v_prediction"):
        Backbone(pipe)
