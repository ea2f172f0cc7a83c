"""Stable Diffusion 3 and 3.5: a transformer with joint attention (MMDiT, Esser et al. 2024) and flow matching."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusion3Pipeline

from helpers.backbones.backbone import Backbone, Text
from helpers.backbones.tokens import Tokens

T5_LENGTH = 256  # tokens of the third encoder, as the pipeline takes by default


class MMDiTBackbone(Backbone):
    """Keys of the text are CLIP's positions, which two encoders share, then those of T5 where there is one; without
    it the pipeline puts as many zeros there."""

    def __init__(self, pipe: StableDiffusion3Pipeline, checkpointing: bool = False):
        third = [[pipe.tokenizer_3]] if pipe.text_encoder_3 is not None else []
        tokens = Tokens([[pipe.tokenizer, pipe.tokenizer_2], *third], lengths=[pipe.tokenizer_max_length, T5_LENGTH])
        super().__init__(pipe, tokens, checkpointing)

    @property
    def denoiser(self) -> torch.nn.Module:
        return self.pipe.transformer

    @property
    def cell(self) -> int:
        return self.pipe.vae_scale_factor * self.denoiser.config.patch_size

    def at(self, height: int, width: int) -> Backbone:
        other, most = super().at(height, width), self.denoiser.config.pos_embed_max_size * self.cell
        if max(height, width) > most:
            raise ValueError(f"{height} x {width} pixels are more than the model knows: at most {most} a side")
        return other

    def encode_text(self, texts: Sequence[str]) -> Text:
        self.tokens.check(texts)
        states, _, pooled, _ = self.pipe.encode_prompt(
            list(texts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_LENGTH,
        )
        return {"tokens": states, "pooled": pooled}

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, text: Text) -> torch.Tensor:
        return self.denoiser(
            hidden_states=x_t,
            timestep=t.to(x_t.device).expand(len(x_t)),
            encoder_hidden_states=text["tokens"],
            pooled_projections=text["pooled"],
            return_dict=False,
        )[0]
