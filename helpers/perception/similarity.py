"""How well a picture fits a phrase, as cosines of open_clip embeddings (Radford et al. 2021): CLIP as a guide.

The miniature guide (models/clip) and real weights load the same way; both are differentiated with respect to images.
"""

from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import nn


class Similarity(nn.Module):
    """A frozen open_clip model with its tokenizer. side: its image size; mean, std: of its normalised input."""

    def __init__(self, model: nn.Module, tokenizer):
        super().__init__()
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        size = model.visual.image_size
        self.side = size if isinstance(size, int) else size[0]
        for name in ("mean", "std"):
            values = torch.tensor(getattr(model.visual, f"image_{name}"))
            self.register_buffer(name, values[:, None, None], persistent=False)

    @classmethod
    def load(cls, name_or_path: str | Path, device="cpu") -> "Similarity":
        """A folder in open_clip's layout, or a name on the Hub ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")."""
        where = "local-dir:" if Path(name_or_path).is_dir() else "hf-hub:"
        model = open_clip.create_model(f"{where}{name_or_path}", precision="fp32")
        return cls(model, open_clip.get_tokenizer(f"{where}{name_or_path}")).to(device)

    @torch.no_grad()
    def embed(self, phrases: list[str]) -> torch.Tensor:
        """phrases -> (n, d) of length 1; compute them once per run. Empty and too long ones are refused."""
        for phrase in phrases:
            if not phrase.strip():
                raise ValueError(f"phrase {phrase!r} is empty: name a thing or a relation, such as 'red car'")
        ids, nothing = self.tokenizer(list(phrases)), self.tokenizer([""])
        for phrase, full in zip(phrases, ids[:, -2] != nothing[0, -2]):
            if full:  # open_clip would cut it without a word
                raise ValueError(
                    f"phrase {phrase!r} does not fit into the {ids.size(1)} tokens that CLIP reads: shorten it"
                )
        ids = ids.to(self.mean.device)
        return self.model.encode_text(ids, normalize=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) in [0, 1] -> (B, d) of length 1; resized to the model's own size and normalised here."""
        if images.dim() != 4 or images.size(1) != 3:
            raise ValueError(f"images must be (B, 3, H, W) in [0, 1], got {tuple(images.shape)}")
        if images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        return self.model.encode_image((images - self.mean) / self.std, normalize=True)
