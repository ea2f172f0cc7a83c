"""mini-sd3: a StableDiffusion3Pipeline of tiny parts, trained on fresh scenes.

A transformer with joint attention (MMDiT, Esser et al. 2024) learns the velocity of rectified flow,

    x_t = (1 - s) x0 + s eps,   v = eps - x0,   s = sigmoid(n), n ~ N(0, 1),

with 10 % of the captions dropped. mini-sd's text encoder, as it stands, plays both CLIP roles of SD3. The third, T5, is
absent: diffusers then appends `max_sequence_length` rows of zeros to the text. Equal keys can be counted instead of
repeated (their softmax weights add up), so a training step sees one such row that counts for 256, or none; the trained
model draws alike with both. As for the real one, diffusers loads the folder when it is told so (text_encoder_3=None,
tokenizer_3=None).

As in mini-sd's training a linear head, here on the tokens of the last block but one, predicts which object covers a
cell; it is thrown away.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from helpers.training.diffusion import LABELS, EncodedScenes, by_noise
from helpers.training.loop import fit
from helpers.training.text import tokenizer

SEED = 24
T5_LENGTH = 256  # the pipeline's default `max_sequence_length`


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """SD3's own: shift 3."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def transformer(layers: int = 6, heads: int = 6) -> SD3Transformer2DModel:
    torch.manual_seed(SEED)
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=256,
        caption_projection_dim=32 * heads,
        pooled_projection_dim=256,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


def projected(encoder: CLIPTextModel) -> CLIPTextModelWithProjection:
    """A text encoder as SD3 takes them; the projection of what it says of the whole text is the identity."""
    net = CLIPTextModelWithProjection(encoder.config)
    net.text_model.load_state_dict(encoder.state_dict())
    nn.init.eye_(net.text_projection.weight)
    return net.eval().requires_grad_(False)


class CountedKeys:
    """Joint attention in plain torch (the fused kernel's backward is slow on CPUs), in which the last key of the text
    counts for `last` equal ones: softmax(q k / sqrt(d) + log last)."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, last: int = 1):
        def heads(x, norm):
            x = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return norm(x) if norm else x

        def joined(picture, text, norm=None, norm_text=None):
            return torch.cat([heads(picture(hidden_states), norm), heads(text(encoder_hidden_states), norm_text)], 2)

        q = joined(attn.to_q, attn.add_q_proj, attn.norm_q, attn.norm_added_q)
        k = joined(attn.to_k, attn.add_k_proj, attn.norm_k, attn.norm_added_k)
        scores = q @ k.transpose(-1, -2) * q.size(-1) ** -0.5
        if last > 1:
            scores = scores + F.pad(scores.new_full((1,), math.log(last)), (scores.size(-1) - 1, 0))
        out = (scores.softmax(-1) @ joined(attn.to_v, attn.add_v_proj)).transpose(1, 2).flatten(2)
        picture, text = out.split([hidden_states.size(1), encoder_hidden_states.size(1)], 1)
        picture = attn.to_out[1](attn.to_out[0](picture))
        return picture, text if attn.context_pre_only else attn.to_add_out(text)


class Denoiser(nn.Module):
    """The transformer with its frozen text encoder and the alignment head."""

    def __init__(self, encoder: CLIPTextModel, net: SD3Transformer2DModel):
        super().__init__()
        self.text_encoder, self.transformer = projected(encoder), net
        net.set_attn_processor(CountedKeys())
        self.align = nn.Linear(net.inner_dim, LABELS)
        net.transformer_blocks[-2].register_forward_hook(lambda block, args, out: setattr(self, "features", out[1]))

    def forward(self, x_t, t, ids, zeros: int = 0):
        """x_t (B, 4, 16, 16), t (B) in 0 to 1000, ids (B, 77) -> velocity, logits (B, 64, LABELS). zeros: how many
        rows stand for the absent third encoder."""
        with torch.no_grad():
            said = self.text_encoder(ids, output_hidden_states=True)
            states, pooled = said.hidden_states[-2].repeat(1, 1, 2), said.text_embeds.repeat(1, 2)
        if zeros:
            states = F.pad(states, (0, 0, 0, 1))
        kwargs = {"joint_attention_kwargs": {"last": zeros}} if zeros else {}
        velocity = self.transformer(x_t, states, pooled, t, return_dict=False, **kwargs)[0]
        return velocity, self.align(self.features)


def loss(model, batch, generator):
    """||v - v_theta||^2 + alignment."""
    x0, labels, ids = (part.to(model.align.weight.device) for part in batch)
    s = torch.randn(len(x0), generator=generator).sigmoid().to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0.device)
    at = s[:, None, None, None]
    zeros = T5_LENGTH * int(torch.randint(2, (1,), generator=generator))
    prediction, logits = model((1 - at) * x0 + at * eps, 1000 * s, ids, zeros)
    error = (prediction.float() - (eps - x0)).square()
    cells = F.one_hot(labels.long(), LABELS).float().unflatten(1, (8, 8)).unflatten(3, (8, 8))
    shares = cells.mean((2, 4)).flatten(1, 2)
    align = -(shares * logits.float().log_softmax(-1)).sum(-1).mean()
    return error.mean() + 0.1 * align, {"v": error.mean(), "align": align, **by_noise(error, 1000 * s)}


def train(
    folder: Path, vae: AutoencoderKL, encoder: CLIPTextModel, steps: int, batch: int, lr: float, scenes: int
) -> StableDiffusion3Pipeline:
    """Train (or continue in `folder`) and return the pipeline with averaged weights. encoder stays as it is. scenes:
    how many are encoded beforehand."""
    data = EncodedScenes(vae, folder / "scenes", scenes, steps * batch, SEED)
    return pipeline(fit(Denoiser(encoder, transformer()), data, loss, folder, steps, batch, lr, ema=0.998), vae)


def pipeline(model: Denoiser, vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """A plain one, with diffusers' own attention."""
    vae.register_to_config(_name_or_path=None, shift_factor=0.0)  # diffusers would keep the folder it was read from
    net = SD3Transformer2DModel.from_config(model.transformer.config)
    net.load_state_dict(model.transformer.state_dict())
    encoder, words = model.text_encoder, tokenizer()
    return StableDiffusion3Pipeline(
        transformer=net.eval(),
        scheduler=scheduler(),
        vae=vae,
        text_encoder=encoder,
        tokenizer=words,
        text_encoder_2=encoder,
        tokenizer_2=words,
        text_encoder_3=None,
        tokenizer_3=None,
    )
