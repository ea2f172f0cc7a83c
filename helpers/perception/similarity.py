"""How well a picture fits a phrase, as cosines of open_clip embeddings (Radford et al. 2021): CLIP as a guide.

The miniature guide (models/clip) and real weights load the same way; both are differentiated with respect to images.
"""

from pathlib import Path
from types import SimpleNamespace

import open_clip
import torch
from open_clip.model import get_model_preprocess_cfg
from open_clip.transform import CenterCropOrPad, PreprocessCfg, ResizeKeepRatio, center_crop_or_pad, image_transform_v2
from torch import nn
from torchvision.transforms import InterpolationMode, Resize

from helpers.perception.loading import loading, source
from helpers.perception.preprocessing import check_images, resize


def _size(step: Resize | ResizeKeepRatio, height: int, width: int) -> tuple[int, int]:
    """The height and width that a step of open_clip's transform gives to a picture."""
    if isinstance(step, Resize):
        return tuple(step(torch.empty(3, height, width, device="meta")).shape[-2:])
    return tuple(step.get_params(SimpleNamespace(size=(width, height)), step.size, step.longest))


class Similarity(nn.Module):
    """A frozen open_clip model with its tokenizer. side: its image size; mean, std: of its normalised input."""

    def __init__(self, model: nn.Module, tokenizer):
        super().__init__()
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        how = PreprocessCfg(**get_model_preprocess_cfg(model))
        self.side = how.size if isinstance(how.size, int) else how.size[0]
        self.steps = image_transform_v2(how, is_train=False).transforms
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(how, name))[:, None, None], persistent=False)

    @classmethod
    def load(cls, name: str | Path, device="cpu") -> "Similarity":
        """From a name in models/, a folder in open_clip's layout, or a Hub id; float32. See `loading.source`."""
        where = source(name)
        address = f"{'local-dir' if isinstance(where, Path) else 'hf-hub'}:{where}"
        with loading(where):
            model = open_clip.create_model(address, precision="fp32", require_pretrained=True)
            similarity = cls(model, open_clip.get_tokenizer(address))
        return similarity.to(device)

    @torch.no_grad()
    def embed(self, phrases: list[str]) -> torch.Tensor:
        """phrases -> (n, d) of length 1; compute them once per run. Empty and too long ones are refused."""
        for phrase in phrases:
            if not phrase.strip():
                raise ValueError(f"phrase {phrase!r} is empty: name a thing or a relation, such as 'red car'")
        ids = self.tokenizer(list(phrases))
        most = ids.size(1)
        longer, nothing = self.tokenizer(list(phrases), most + 1), self.tokenizer([""], most + 1)
        for phrase, cut in zip(phrases, (ids != longer[:, :-1]).any(1) | (longer[:, -1] != nothing[0, -1])):
            if cut:  # open_clip would do it without a word
                raise ValueError(f"phrase {phrase!r} does not fit into the {most} tokens that CLIP reads: shorten it")
        return self.model.encode_text(ids.to(self.mean.device), normalize=True)

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) in [0, 1] -> float32 (B, 3, h, w) as open_clip's own transform of this model makes them,
        differentiable; what it does to pictures of bytes it does to floats, without rounding to whole grey values."""
        images = images.float()
        for step in self.steps:
            if isinstance(step, Resize | ResizeKeepRatio):
                images = resize(
                    images, _size(step, *images.shape[-2:]), step.interpolation == InterpolationMode.BICUBIC
                )
            elif isinstance(step, CenterCropOrPad):
                images = center_crop_or_pad(images, step.size, step.fill / 255)
            else:
                images = step(images)
        return images

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) in [0, 1] -> (B, d) of length 1; resized, cropped and normalised here."""
        check_images(images)
        return self.model.encode_image(self.prepare(images), normalize=True)
