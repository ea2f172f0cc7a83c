"""mini-sd3: what its training computes is what diffusers' own classes compute."""

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from transformers import CLIPTextModel

from helpers.backbones.load import wrap
from helpers.guidance.cfg import CFG
from helpers.paths import weights
from helpers.sampling.loop import sample
from helpers.training import sd3
from helpers.training.diffusion import LABELS

TEXTS = ["a red car is left of a blue ball.", "a tree on grass"]


@pytest.fixture(scope="module")
def model():
    """Two layers with random weights; a text encoder that has been trained."""
    encoder = CLIPTextModel.from_pretrained(weights("mini-sd") / "text_encoder")
    return sd3.Denoiser(encoder, sd3.transformer(layers=2)).eval()


@pytest.fixture(scope="module")
def pipe(model):
    found = sd3.pipeline(model, AutoencoderKL.from_pretrained(weights("autoencoder")))
    found.set_progress_bar_config(disable=True)
    return found


@pytest.mark.parametrize("zeros", [0, 1, 256])
def test_rows_of_zeros_are_counted_as_the_pipeline_repeats_them(model, pipe, zeros):
    ids = torch.tensor(pipe.tokenizer(TEXTS, padding="max_length", max_length=77)["input_ids"])
    x_t, t = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([300.0, 800.0])
    encoded = pipe.encode_prompt(
        TEXTS, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=zeros
    )
    with torch.no_grad():
        theirs = pipe.transformer(x_t, encoded[0], encoded[2], t, return_dict=False)[0]
        ours, logits = model(x_t, t, ids, zeros)
    assert encoded[0].shape == (2, 77 + zeros, 256) and logits.shape == (2, 64, LABELS)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_the_loss_is_zero_for_the_true_velocity(model):
    x0 = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    batch = (x0, torch.zeros(6, 64, 64, dtype=torch.uint8), torch.zeros(6, 77, dtype=torch.long))

    class Knowing(torch.nn.Module):
        """Knows x0: eps = (x_t - (1 - s) x0) / s, and that every cell shows the first object."""

        align = model.align

        def forward(self, x_t, t, ids, zeros=0):
            s = (t / 1000)[:, None, None, None]
            logits = torch.full((len(x_t), 64, LABELS), -50.0)
            logits[..., 0] = 50.0
            return (x_t - (1 - s) * x0) / s - x0, logits

    value, parts = sd3.loss(Knowing(), batch, torch.Generator().manual_seed(0))
    assert value < 1e-6 and parts["v"] < 1e-6
    assert sd3.loss(model, batch, torch.Generator().manual_seed(0))[0] > 1


def test_only_the_transformer_and_the_head_learn(model):
    batch = (torch.randn(2, 4, 16, 16), torch.zeros(2, 64, 64, dtype=torch.uint8), torch.zeros(2, 77, dtype=torch.long))
    sd3.loss(model, batch, torch.Generator().manual_seed(0))[0].backward()
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    model.zero_grad()
    assert learning == {"transformer", "align"}


def test_the_plain_pipeline_draws_what_our_loop_draws(pipe, tmp_path):
    """Also when loaded again from its folder, which names no folder of this machine."""
    pipe.save_pretrained(tmp_path)
    assert str(weights("autoencoder")) not in (tmp_path / "vae" / "config.json").read_text()
    loaded = StableDiffusion3Pipeline.from_pretrained(tmp_path, text_encoder_3=None, tokenizer_3=None)
    loaded.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    theirs = loaded(
        TEXTS[0], latents=noise, num_inference_steps=3, guidance_scale=5.0, output_type="pt", height=64, width=64
    ).images
    ours = sample(wrap(pipe), TEXTS[:1], [CFG(5.0)], steps=3, seeds=[3], progress=False).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
