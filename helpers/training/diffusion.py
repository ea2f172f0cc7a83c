"""mini-sd: a StableDiffusionPipeline of tiny parts, trained on fresh scenes.

The U-Net learns v-prediction (v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0) on Stable Diffusion's schedule with
10 % of the captions dropped. Scenes are rendered and encoded once; captions and noise are drawn afresh.

While it trains, a linear head on the decoder's 16x16 features predicts which object covers each cell: a training-time
alignment of the representation (in the spirit of REPA, Yu et al. 2024) with the renderer's labels as the teacher. The
head is thrown away; the pipeline is a plain one.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.utils.data import Dataset
from transformers import CLIPTextModel

from helpers.files import writing
from helpers.miniature.captions import random_caption
from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import COLORS, KINDS, SIDE
from helpers.miniature.world import Rendered, random_scene, render
from helpers.training.autoencoder import to_tensor
from helpers.training.loop import SEEDS, Scenes, device, fit
from helpers.training.text import WINDOW, tokenizer

LABELS = len(KINDS) * len(COLORS) + 1  # every (kind, colour) and the background


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule; trailing spacing, so that sampling starts where training ends."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def unet(widths: tuple[int, int, int] = (64, 128, 192), seed: int = SEEDS["mini-sd"]) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=(2, 2, 3),  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


def label_map(scene, visible: np.ndarray) -> np.ndarray:
    """(64, 64) uint8: index of the (kind, colour) that is seen at each pixel; LABELS - 1 is the background."""
    labels = np.full((SIDE, SIDE), LABELS - 1, np.uint8)
    for thing, mask in zip(scene.things, visible):
        labels[mask] = KINDS.index(thing.kind) * len(COLORS) + list(COLORS).index(thing.color)
    return labels


class EncodedScenes(Dataset):
    """Latents of `count` scenes (without held-out compositions), encoded once into `folder`; captions are drawn anew.

    An item is (latent (4, 16, 16) float16, label map (64, 64), caption's token ids (77)). picture: of a scene and its
    drawing the (64, 64, 3) uint8 that is encoded; the drawing's image when None.
    """

    def __init__(
        self,
        vae: AutoencoderKL | None,
        folder: Path,
        count: int,
        length: int,
        seed: int = SEEDS["mini-sd"],
        picture: Callable[[Scene, Rendered], np.ndarray] | None = None,
    ):
        self.folder, self.count, self.length, self.seed = folder, count, length, seed
        self.picture = picture or (lambda scene, drawn: drawn.image)
        self.tokenizer = tokenizer()
        if not (folder / "scenes.pkl").exists():
            self._encode(vae)
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")
        self.labels = np.load(folder / "labels.npy", mmap_mode="r")
        self.scenes = pickle.loads((folder / "scenes.pkl").read_bytes())
        if len(self.scenes) != count:
            raise ValueError(
                f"{folder} holds {len(self.scenes)} encoded scenes, not {count}: ask for as many, or remove the folder"
            )

    @torch.no_grad()
    def _encode(self, vae):
        self.folder.mkdir(parents=True, exist_ok=True)
        vae = vae.to(device()).eval()
        latents = np.lib.format.open_memmap(
            self.folder / "latents.npy", "w+", dtype=np.float16, shape=(self.count, 4, 16, 16)
        )
        labels = np.lib.format.open_memmap(
            self.folder / "labels.npy", "w+", dtype=np.uint8, shape=(self.count, SIDE, SIDE)
        )
        scenes = []
        for first in range(0, self.count, 250):
            drawn = [
                random_scene(np.random.default_rng([self.seed, i]), held_out=False)
                for i in range(first, min(first + 250, self.count))
            ]
            rendered = [render(s) for s in drawn]
            pictures = np.stack([self.picture(s, r) for s, r in zip(drawn, rendered)])
            x = to_tensor(torch.from_numpy(pictures)).to(vae.device)
            with torch.autocast(x.device.type, torch.bfloat16):
                posterior = vae.encode(x).latent_dist
            latents[first : first + len(drawn)] = posterior.mean.float().cpu().numpy()
            labels[first : first + len(drawn)] = [label_map(s, r.visible) for s, r in zip(drawn, rendered)]
            scenes += drawn
        with writing(self.folder / "scenes.pkl", "wb") as file:
            pickle.dump(scenes, file)

    def __len__(self):
        return self.length

    def place(self, i: int) -> tuple[int, np.random.Generator]:
        """Which scene item i shows, and the random numbers for its caption."""
        rng = np.random.default_rng([self.seed + 1000, i])
        return int(rng.integers(self.count)), rng

    def __getitem__(self, i):
        k, rng = self.place(i)
        text = "" if rng.random() < 0.1 else random_caption(self.scenes[k], rng).text
        ids = self.tokenizer(text, padding="max_length", max_length=WINDOW, truncation=True)["input_ids"]
        return self.latents[k].astype(np.float32), self.labels[k], np.array(ids)


class Denoiser(nn.Module):
    """The U-Net with its text encoder and the alignment head, whose features are the decoder's 16x16 input."""

    def __init__(self, text_encoder: CLIPTextModel, net: UNet2DConditionModel):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, net
        self.unet.set_attn_processor(AttnProcessor())  # explicit attention: the fused kernel's backward is slow on CPUs
        self.unet.to(memory_format=torch.channels_last)
        self.align = nn.Conv2d(net.config.block_out_channels[1], LABELS, 1)
        self.unet.up_blocks[1].register_forward_hook(lambda block, args, out: setattr(self, "features", out))

    def forward(self, x_t, t, ids):
        states = self.text_encoder(ids).last_hidden_state
        prediction = self.unet(x_t, t, states).sample
        return prediction, self.align(self.features)


ALPHA_BAR = scheduler().alphas_cumprod


def noised(x0: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """x_t, t, v and the weight min(1, 5 / (snr + 1)) of its error (min-SNR-5 for v, flat where the noise dominates)."""
    t = torch.randint(0, 1000, (len(x0),), generator=generator)
    alpha_bar = ALPHA_BAR[t].to(x0.device)[:, None, None, None]
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    target = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    weight = (5 * (1 - alpha_bar)).clamp(max=1)  # snr + 1 = 1 / (1 - alpha_bar)
    return x_t.contiguous(memory_format=torch.channels_last), t.to(x0.device), target, weight


def by_noise(error: torch.Tensor, t: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean error in every quarter of the noise levels that occurs, to be logged."""
    return {f"v_{k}": error[t // 250 == k].mean() for k in range(4) if (t // 250 == k).any()}


def loss(model, batch, generator):
    """min(1, 5 / (snr + 1)) ||v - v_theta||^2 + alignment."""
    x0, labels, ids = (part.to(model.align.weight.device) for part in batch)
    x_t, t, target, weight = noised(x0, generator)
    prediction, logits = model(x_t, t, ids)
    error = (prediction.float() - target).square()
    shares = F.one_hot(labels.long(), LABELS).float().unflatten(1, (16, 4)).unflatten(3, (16, 4)).mean((2, 4))
    align = -(shares * logits.float().permute(0, 2, 3, 1).log_softmax(-1)).sum(-1).mean()
    value = (weight * error).mean()
    return value + 0.1 * align, {"v": value, "align": align, **by_noise(error, t)}


def train(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    steps: int,
    batch: int,
    lr: float,
    scenes: int,
    start: StableDiffusionPipeline | None = None,
) -> StableDiffusionPipeline:
    """Train (or continue in `folder`) and return the pipeline with averaged weights.

    scenes: how many are encoded beforehand. start: trained weights that a run begins with, with a fresh optimiser;
    checkpoints in `folder` go before it.
    """
    data = EncodedScenes(vae, folder / "scenes", scenes, length=steps * batch)
    model = Denoiser(start.text_encoder if start else text_encoder, unet())
    if start:
        model.unet.load_state_dict(start.unet.state_dict())
    return pipeline(fit(model, data, loss, folder, steps, batch, lr, ema=0.999), vae)


def pipeline(model: Denoiser, vae: AutoencoderKL) -> StableDiffusionPipeline:
    vae.register_to_config(_name_or_path=None)  # diffusers would keep the folder that it was read from
    parts = {"unet": _plain(model.unet), "text_encoder": model.text_encoder, "vae": vae, "tokenizer": tokenizer()}
    return StableDiffusionPipeline(
        **parts, scheduler=scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _plain(trained: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same U-Net with diffusers' own attention and memory layout."""
    net = UNet2DConditionModel.from_config(trained.config)
    net.load_state_dict(trained.state_dict())
    return net


def held_out_scenes(count: int, **kinds) -> Scenes:
    """Scenes that no training run drew."""
    return Scenes(SEEDS["held_out"], lambda scene, rng: scene, count, **kinds)
