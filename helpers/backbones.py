"""A frozen text-to-image model behind one small interface: encode text, predict, convert, decode, encode.

Every denoiser predicts something affine in x_t and eps; with x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps:

    epsilon    eps
    velocity   v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0      (Salimans & Ho 2022)
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline

from helpers.paths import weights
from helpers.tokens import check_window

Text = dict[str, torch.Tensor]  # what the denoiser wants to know about a batch of prompts


class Epsilon:
    """The model predicts eps."""

    @staticmethod
    def to_eps(pred, x_t, alpha_bar):
        return pred

    @staticmethod
    def to_x0(pred, x_t, alpha_bar):
        return (x_t - (1 - alpha_bar).sqrt() * pred) / alpha_bar.sqrt()

    @staticmethod
    def from_eps(eps, x_t, alpha_bar):
        return eps

    @staticmethod
    def shift(pred, delta, alpha_bar):
        return pred + delta


class Velocity:
    """The model predicts v."""

    @staticmethod
    def to_eps(pred, x_t, alpha_bar):
        return alpha_bar.sqrt() * pred + (1 - alpha_bar).sqrt() * x_t

    @staticmethod
    def to_x0(pred, x_t, alpha_bar):
        return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * pred

    @staticmethod
    def from_eps(eps, x_t, alpha_bar):
        return (eps - (1 - alpha_bar).sqrt() * x_t) / alpha_bar.sqrt()

    @staticmethod
    def shift(pred, delta, alpha_bar):
        return pred + delta / alpha_bar.sqrt()


PREDICTIONS = {"epsilon": Epsilon, "v_prediction": Velocity}


class Backbone:
    """A StableDiffusionPipeline (any size) as guidance sees it. Its parameters are frozen; nothing here owns autograd.

    Shapes: latents x_t, eps, x0_hat (B, 4, h, w); images (B, 3, H, W), values in [0, 1].
    """

    def __init__(self, pipe: StableDiffusionPipeline):
        kind = pipe.scheduler.config.prediction_type
        if kind not in PREDICTIONS:
            raise ValueError(f"the scheduler's prediction_type is {kind!r}: this loop serves {', '.join(PREDICTIONS)}")
        for module in (pipe.unet, pipe.vae, pipe.text_encoder):
            module.eval().requires_grad_(False)
        self.pipe, self.prediction = pipe, PREDICTIONS[kind]
        self.device, self.dtype = pipe.unet.device, pipe.unet.dtype
        side = pipe.unet.config.sample_size
        self.latent_shape = (pipe.unet.config.in_channels, side, side)
        self._alphas = pipe.scheduler.alphas_cumprod.to(self.device)
        self._last_alpha = getattr(pipe.scheduler, "final_alpha_cumprod", torch.ones(())).to(self.device)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.latent_shape[1] * self.pipe.vae_scale_factor, self.latent_shape[2] * self.pipe.vae_scale_factor

    def at(self, height: int, width: int) -> "Backbone":
        """The same model, drawing images of another size; ValueError where a block of its U-Net does not fit."""
        cell = self.pipe.vae_scale_factor * 2 ** (len(self.pipe.unet.config.down_block_types) - 1)
        for name, length in (("height", height), ("width", width)):
            if length < cell or length % cell:
                raise ValueError(f"{name}={length} must be a multiple of {cell}, a pixel of the coarsest block")
        other = copy.copy(self)
        factor = self.pipe.vae_scale_factor
        other.latent_shape = (self.latent_shape[0], height // factor, width // factor)
        return other

    def scheduler(self) -> SchedulerMixin:
        """A fresh copy of the pipeline's own solver."""
        return copy.deepcopy(self.pipe.scheduler)

    def encode_text(self, texts: Sequence[str]) -> Text:
        """What `predict` takes for these prompts; ValueError for one past the text window."""
        for text in texts:
            check_window(self.pipe.tokenizer, text)
        hidden, _ = self.pipe.encode_prompt(list(texts), self.device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": hidden}

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, text: Text) -> torch.Tensor:
        """The model's raw prediction (B, 4, h, w): eps or v, see `prediction`."""
        return self.pipe.unet(x_t, t, return_dict=False, **text)[0]

    def alpha_bar(self, t: torch.Tensor | int) -> torch.Tensor:
        """Cumulative alpha at timestep t, a scalar in (0, 1); for t < 0 where the solver ends, (nearly) 1."""
        return self._alphas[int(t)] if t >= 0 else self._last_alpha

    def to_eps(self, pred: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.prediction.to_eps(pred, x_t, self.alpha_bar(t))

    def to_x0(self, pred: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x0_hat = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)."""
        return self.prediction.to_x0(pred, x_t, self.alpha_bar(t))

    def from_eps(self, eps: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The prediction whose eps is `eps`: the inverse of `to_eps`."""
        return self.prediction.from_eps(eps, x_t, self.alpha_bar(t))

    def shift(self, pred: torch.Tensor, delta: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """from_eps(to_eps(pred) + delta), without the rounding of the way there and back: exactly `pred` at delta 0."""
        return self.prediction.shift(pred, delta, self.alpha_bar(t))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images; not clamped, so that a gradient passes everywhere (values may leave [0, 1] a little)."""
        return self.pipe.vae.decode(latents / self.pipe.vae.config.scaling_factor, return_dict=False)[0] / 2 + 0.5

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents of images in [0, 1]: the mean of the autoencoder's posterior."""
        posterior = self.pipe.vae.encode(2 * images - 1).latent_dist
        return posterior.mean * self.pipe.vae.config.scaling_factor


BACKBONES: dict[str, Callable[[], str | Path]] = {
    "mini-sd": lambda: weights("mini-sd"),
    "sd15": lambda: "stable-diffusion-v1-5/stable-diffusion-v1-5",
}


def load_backbone(
    name: str | Path = "mini-sd",
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
) -> Backbone:
    """A named backbone, a folder in Hub layout, or a Hub id ("owner/name").

    device: None takes the GPU when there is one. dtype: stored half-precision weights become float32 by default.
    checkpointing: recompute activations in the backward pass; guidance then needs less memory and more time.
    """
    if str(name) in BACKBONES:
        source = BACKBONES[str(name)]()
    elif (Path(name) / "model_index.json").is_file() or str(name).count("/") == 1:
        source = name
    else:
        raise ValueError(
            f"unknown backbone {str(name)!r}: use one of {', '.join(BACKBONES)}, a folder with a model_index.json, "
            "or a Hub id 'owner/name'"
        )
    pipe = StableDiffusionPipeline.from_pretrained(
        str(source), dtype=dtype, safety_checker=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    if checkpointing:
        pipe.unet.enable_gradient_checkpointing()
        pipe.vae.enable_gradient_checkpointing()
    return Backbone(pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu")))
