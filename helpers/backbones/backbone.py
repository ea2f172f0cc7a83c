"""A frozen text-to-image model behind one small interface, the same for every architecture.

The loop and the methods touch nothing of a pipeline but this: noise levels (`schedule`), solvers by name, text and its
tokens, one prediction, attention, the autoencoder, and the size of pictures.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from diffusers import DiffusionPipeline

from helpers.backbones.attention import Edit, Layers, Recorded, attention
from helpers.backbones.schedule import Schedule
from helpers.backbones.solvers import Solver
from helpers.backbones.tokens import Tokens

# What the denoiser wants to know about a batch of prompts: "tokens" (B, T, d) is what attention looks at, a key per
# token; other entries are the model's own. Every entry has one row per prompt.
Text = dict[str, torch.Tensor]


class Backbone(ABC):
    """A diffusers pipeline as guidance sees it. Its parameters are frozen; nothing here owns autograd.

    Shapes: latents x_t, eps, x0_hat (B, C, h, w) = (B, *latent_shape); images (B, 3, H, W), values in [0, 1].
    tokens: see `helpers.backbones.tokens.Tokens`. schedule: see `helpers.backbones.schedule.Schedule`. checkpointing:
    recompute activations in the backward pass; guidance then needs less memory and more time.
    """

    guides: Mapping[str, str] = {}  # what looks at this model's pictures: "segmenter" and its kin -> name or Hub id

    def __init__(self, pipe: DiffusionPipeline, tokens: Tokens, checkpointing: bool = False):
        self.pipe, self.tokens = pipe, tokens
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
        if getattr(pipe.vae.config, "latents_mean", None) is not None:
            raise ValueError("the autoencoder has a latents_mean of its own, which is not served: use another model")
        if checkpointing:
            self.denoiser.enable_gradient_checkpointing()
            pipe.vae.enable_gradient_checkpointing()
        pipe.set_progress_bar_config(disable=True)
        self.device, self.dtype = self.denoiser.device, self.denoiser.dtype
        self.schedule = Schedule(pipe.scheduler, self.device)
        side = self.denoiser.config.sample_size
        self.latent_shape = (self.denoiser.config.in_channels, *((side, side) if isinstance(side, int) else side))

    @property
    @abstractmethod
    def denoiser(self) -> torch.nn.Module:
        """The pipeline's network, as it stands there: `pipe.unet = torch.compile(pipe.unet)` is seen."""

    @property
    @abstractmethod
    def cell(self) -> int:
        """Sides of pictures are multiples of this many pixels."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Text:
        """What `predict` takes for these prompts, a row each; ValueError for one past a text window."""

    @abstractmethod
    def predict(self, x_t: torch.Tensor, t: torch.Tensor, text: Text) -> torch.Tensor:
        """The model's raw prediction (B, C, h, w) at timestep t, see `schedule`."""

    def guide(self, kind: str) -> str:
        """The model that looks at this one's pictures; ValueError where none is named."""
        if kind not in self.guides:
            raise ValueError(f"this backbone names no {kind}: give the method one")
        return self.guides[kind]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.latent_shape[1] * self.pipe.vae_scale_factor, self.latent_shape[2] * self.pipe.vae_scale_factor

    def at(self, height: int, width: int) -> "Backbone":
        """The same model, drawing images of another size; ValueError where it does not fit a block of the denoiser."""
        for name, length in (("height", height), ("width", width)):
            if not isinstance(length, int) or length < self.cell or length % self.cell:
                raise ValueError(
                    f"{name}={length!r} must be a multiple of {self.cell} pixels, the model's coarsest cell"
                )
        other, factor = copy.copy(self), self.pipe.vae_scale_factor
        other.latent_shape = (self.latent_shape[0], height // factor, width // factor)
        return other

    def solver(self, steps: int, name: str | None = None) -> Solver:
        """A solver with its timesteps set; None is the usual one, DDIM or Euler. ValueError names the others."""
        return Solver(name, self.pipe.scheduler, self.schedule, steps, self.device)

    def attention(
        self, images: int, read: Sequence[Layers] = (), edits: Sequence[Edit] = ()
    ) -> AbstractContextManager[Recorded]:
        """Record and edit the attention of the first `images` rows of what is predicted inside."""
        return attention(self.denoiser, self.latent_shape[1:], images, read, edits)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images; not clamped, so that a gradient passes everywhere (values may leave [0, 1] a little)."""
        vae, config = self.pipe.vae, self.pipe.vae.config
        latents = latents.to(vae.dtype) / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)
        return vae.decode(latents, return_dict=False)[0].to(self.dtype) / 2 + 0.5

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents of images in [0, 1]: the mean of the autoencoder's posterior."""
        vae, config = self.pipe.vae, self.pipe.vae.config
        mean = vae.encode(2 * images.to(vae.dtype) - 1).latent_dist.mean.to(self.dtype)
        return (mean - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor
