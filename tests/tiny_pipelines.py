"""Tiny untrained pipelines of the real classes, configured as on the Hub: every architecture in a second."""

import tempfile
import warnings
from functools import cache

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from helpers.backbones.backbone import Backbone
from helpers.backbones.load import load_backbone

WORDS = "a red blue car fish ball and left of the on grass".split()
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def clip_tokenizer(pad: str = "<|endoftext|>", letters: str = "abcdefghijklmnopqrstuvwxyz.,!") -> CLIPTokenizer:
    """CLIP's byte-pair format: every word of WORDS is one token, others fall into letters."""
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
    joined = [a + b for a, b in dict.fromkeys(merges)]
    vocabulary = dict.fromkeys([*letters, *(c + "</w>" for c in letters), *joined, "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)},
        merges=list(dict.fromkeys(merges)),
        model_max_length=77,
        pad_token=pad,
    )


def t5_tokenizer() -> T5Tokenizer:
    """SentencePiece's unigram format: "grass" is two pieces, as long words are in the real one."""
    pieces = ["▁" + word for word in WORDS if word != "grass"] + ["▁gra", "ss"]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz.,"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(
        vocab=special + [(piece, -2.0) for piece in pieces] + [(letter, -8.0) for letter in letters],
        extra_ids=0,
        model_max_length=512,
    )


def clip_encoder(tokenizer: CLIPTokenizer, width: int = 32, projected: bool = False) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def autoencoder(**config) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
        **{"scaling_factor": 1.0} | config,
    )


def unet(**config) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        **{
            "block_out_channels": (32, 64),
            "attention_head_dim": 8,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        }
        | config,
    )


def stable_diffusion(scheduler, **config) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet(**config),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd15(**config) -> StableDiffusionPipeline:
    """stable-diffusion-v1-5: eps, PNDM."""
    scheduler = PNDMScheduler(
        **{key: value for key, value in BETAS.items() if key != "clip_sample"},
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
    )
    scheduler.register_to_config(clip_sample=False)
    return stable_diffusion(scheduler, **config)


def sd21() -> StableDiffusionPipeline:
    """Stable Diffusion 2.1 with the published cure of its schedule: v prediction, zero terminal SNR, trailing steps."""
    scheduler = DDIMScheduler(
        **BETAS,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return stable_diffusion(scheduler, use_linear_projection=True, attention_head_dim=(4, 8))


def sdxl(**config) -> StableDiffusionXLPipeline:
    """Two encoders, the second pooled; size conditions; eps, Euler of Karras et al."""
    torch.manual_seed(0)
    first, second = clip_tokenizer(), clip_tokenizer(pad="!")
    scheduler = EulerDiscreteScheduler(
        **{key: value for key, value in BETAS.items() if key != "clip_sample"},
        timestep_spacing="leading",
        steps_offset=1,
    )
    scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True)
    return StableDiffusionXLPipeline(
        vae=autoencoder(force_upcast=True),
        text_encoder=clip_encoder(first, 16),
        text_encoder_2=clip_encoder(second, 16, projected=True),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet(
            use_linear_projection=True,
            block_out_channels=(32, 32, 64),
            attention_head_dim=(4, 4, 8),
            transformer_layers_per_block=(1, 1, 2),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        scheduler=scheduler,
        add_watermarker=False,
        **config,
    )


def sd3(t5: bool = True, **config) -> StableDiffusion3Pipeline:
    """Two CLIP encoders and T5 as one sequence, joint attention, flow matching with shift 3."""
    torch.manual_seed(0)
    first, second, third = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
    width = T5Config(vocab_size=len(third), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=12,
        **config,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip_encoder(first, 16, projected=True),
        tokenizer=first,
        text_encoder_2=clip_encoder(second, 16, projected=True),
        tokenizer_2=second,
        text_encoder_3=T5EncoderModel(width) if t5 else None,
        tokenizer_3=third if t5 else None,
    )


def sd3_without_t5() -> StableDiffusion3Pipeline:
    return sd3(t5=False)


def sd35() -> StableDiffusion3Pipeline:
    """Stable Diffusion 3.5: normalised queries and keys, further self-attention in some blocks."""
    return sd3(qk_norm="rms_norm", dual_attention_layers=(0, 1))


PIPELINES = {f.__name__: f for f in (sd15, sd21, sdxl, sd3, sd3_without_t5, sd35)}


def lively(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The same with a decided opinion: fresh networks predict nearly nothing, so that no mistake in them would show."""
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    torch.manual_seed(1)
    for name, parameter in denoiser.named_parameters():
        if parameter.ndim > 1 and ("to_q" in name or "to_k" in name or "add_q" in name or "add_k" in name):
            parameter.data.mul_(3.0)
    return pipe


@cache
def tiny_backbone(name: str) -> Backbone:
    """One of PIPELINES, saved and loaded as any folder; on the CPU, in float32."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        lively(PIPELINES[name]()).save_pretrained(folder)
        return load_backbone(folder, device="cpu")
