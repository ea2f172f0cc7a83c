"""Stable Diffusion 1, 2 and XL: a U-Net with cross attention."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from helpers.backbones.backbone import Backbone, Text
from helpers.backbones.tokens import Tokens


class UNetBackbone(Backbone):
    """Pipelines whose text is one sequence of CLIP tokens; XL's second encoder reads the same positions."""

    def __init__(self, pipe: StableDiffusionPipeline | StableDiffusionXLPipeline, checkpointing: bool = False):
        channels, latents = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
        if channels != latents:
            raise ValueError(
                f"the U-Net takes {channels} channels where the autoencoder has {latents}: it was made for inpainting "
                "or editing; load a text-to-image model"
            )
        xl = isinstance(pipe, StableDiffusionXLPipeline)
        if xl and pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
            pipe.vae.to(torch.float32)  # it leaves the range of float16
        tokenizers = [pipe.tokenizer, getattr(pipe, "tokenizer_2", None)]
        super().__init__(pipe, Tokens([[t for t in tokenizers if t is not None]]), checkpointing)

    @property
    def denoiser(self) -> torch.nn.Module:
        return self.pipe.unet

    @property
    def cell(self) -> int:
        return self.pipe.vae_scale_factor * 2 ** (len(self.denoiser.config.down_block_types) - 1)

    def encode_text(self, texts: Sequence[str]) -> Text:
        self.tokens.check(texts)
        found = self.pipe.encode_prompt(
            list(texts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if not isinstance(self.pipe, StableDiffusionXLPipeline):
            return {"tokens": found[0]}
        said = torch.ones(len(texts), device=self.device, dtype=found[0].dtype)
        if self.pipe.config.force_zeros_for_empty_prompt:  # XL's unconditional text
            said = torch.tensor([float(bool(text)) for text in texts]).to(said)
        return {"tokens": found[0] * said[:, None, None], "pooled": found[2] * said[:, None]}

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, text: Text) -> torch.Tensor:
        added = None
        if "pooled" in text:
            size = self.image_size
            ids = torch.tensor([*size, 0, 0, *size], device=x_t.device, dtype=x_t.dtype)  # original, crop, target
            added = {"text_embeds": text["pooled"], "time_ids": ids.expand(len(x_t), -1)}
        return self.denoiser(x_t, t, encoder_hidden_states=text["tokens"], added_cond_kwargs=added, return_dict=False)[
            0
        ]
