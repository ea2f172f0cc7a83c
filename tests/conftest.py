"""A tiny StableDiffusionPipeline of the real classes, seeded and untrained, and small things the tests share."""

import pytest
import single_steps
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tiny_pipelines import clip_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

from helpers.backbones.backbone import Backbone
from helpers.backbones.load import load_backbone, wrap


def pytest_collection_modifyitems(items):
    """The pipeline first: with two processes (make test) one runs it while the other runs the rest."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)


def tiny_pipeline(prediction_type: str = "v_prediction") -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(letters="abcdefghijklmnopqrstuvwxyz.,")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        latent_channels=4,
        scaling_factor=1.0,
        sample_size=64,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
        prediction_type=prediction_type,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def make_pipeline():
    return tiny_pipeline


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    return wrap(tiny_pipeline())


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def backbone(request) -> Backbone:
    return wrap(tiny_pipeline(request.param))


@pytest.fixture(scope="session")
def mini() -> Backbone:
    return load_backbone("mini-sd", device="cpu")


class Channels(torch.nn.Module):
    """A segmenter by hand, for loops that need no trained one: a phrase's logit is a fixed mix of a pixel's colours."""

    def embed(self, phrases):
        mixes = [torch.randn(3, generator=torch.Generator().manual_seed(sum(map(ord, p)))) for p in phrases]
        return torch.stack(mixes)

    def forward(self, images, embeddings):
        return torch.einsum("bchw,bnc->bnhw", images - 0.5, embeddings)


@pytest.fixture(scope="session")
def segmenter():
    return Channels()


@pytest.fixture(scope="session")
def make_context():
    return single_steps.context
