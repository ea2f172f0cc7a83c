"""FG-DM's last factor, (text, any conditions) -> picture: mini-sd as it stands, steered by a ControlNet.

p(x | y_1 ... y_K, text). The ControlNet, which reads the maps, begins as a copy of mini-sd's encoder whose outputs are
multiplied by zero; only it is trained. Of an item it is shown all maps but those dropped one by one, or a single one.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from helpers.factor_graph.factor import READS, stacked
from helpers.miniature.maps import MAPS
from helpers.miniature.world import render
from helpers.training import diffusion
from helpers.training.loop import fit

SEED = 23
ALONE, DROPPED = 0.4, 0.2  # shares: of items with one map only, of maps that are left out of the others
BASE = "mini-sd"


class Scenes(diffusion.EncodedScenes):
    """Items (latent (4, 16, 16), maps (4 K, 64, 64), caption's token ids)."""

    def __getitem__(self, i):
        latent, _, ids = super().__getitem__(i)
        k, _ = self.place(i)
        rng = np.random.default_rng([self.seed + 2000, i])
        alone = rng.random() < ALONE
        kept = {str(rng.choice(list(MAPS)))} if alone else {name for name in MAPS if rng.random() >= DROPPED}
        drawn = render(self.scenes[k])
        found = {
            name: torch.from_numpy(MAPS[name](self.scenes[k], drawn)).permute(2, 0, 1)[None] / 255 for name in kept
        }
        return latent, stacked(found, list(MAPS), 1, drawn.image.shape[:2])[0], ids


class Steered(nn.Module):
    """mini-sd, frozen, and the ControlNet that is trained."""

    def __init__(self, pipe: StableDiffusionPipeline):
        super().__init__()
        self.text_encoder, self.unet = pipe.text_encoder.requires_grad_(False), pipe.unet.requires_grad_(False)
        torch.manual_seed(SEED)
        self.control = ControlNetModel.from_unet(
            pipe.unet, conditioning_embedding_out_channels=(16, 32, 64), conditioning_channels=4 * len(MAPS)
        ).requires_grad_(True)
        for net in (self.unet, self.control):
            net.set_attn_processor(AttnProcessor())  # see diffusion.Denoiser
            net.to(memory_format=torch.channels_last)

    def forward(self, x_t, t, ids, maps):
        states = self.text_encoder(ids).last_hidden_state
        down, mid = self.control(x_t, t, states, controlnet_cond=maps, return_dict=False)
        return self.unet(x_t, t, states, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample


def loss(model, batch, generator):
    """min(1, 5 / (snr + 1)) ||v - v_theta||^2, as mini-sd's."""
    x0, maps, ids = (part.to(model.unet.device) for part in batch)
    x_t, t, target, weight = diffusion.noised(x0, generator)
    error = (model(x_t, t, ids, maps).float() - target).square()
    value = (weight * error).mean()
    return value, {"v": value, **diffusion.by_noise(error, t)}


def train(
    folder: Path, pipe: StableDiffusionPipeline, steps: int, batch: int, lr: float, scenes: int
) -> ControlNetModel:
    """Train (or continue in `folder`) and return the ControlNet with averaged weights. pipe: mini-sd. scenes: how many
    are encoded beforehand."""
    vae: AutoencoderKL = pipe.vae
    data = Scenes(vae, folder / "scenes", scenes, steps * batch, SEED)
    trained = fit(Steered(pipe), data, loss, folder, steps, batch, lr, ema=0.998).control
    net = ControlNetModel.from_config(trained.config)
    net.load_state_dict(trained.state_dict())
    return net.eval()


def save(control: ControlNetModel, folder: Path) -> None:
    """In half precision, with what it belongs to."""
    control.half().save_pretrained(folder)
    (folder / READS).write_text(json.dumps({"base": BASE, "conditions": list(MAPS)}) + "\n")
