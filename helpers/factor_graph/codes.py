"""A segmenter for segmentations: their codes say what every pixel is, so nothing has to be learnt.

    p_c(pixel) = softmax over codes c of -|pixel - code_c|^2 / tau,    p_phrase = sum of p_c over the codes that fit it

It stands where DGA expects CLIPSeg (`Segmenter`), and makes an energy of a map's x_hat0 as differentiable as of a
picture's. tau decides how far from a code a pixel still feels it: x_hat0 of early steps lies between the codes.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from helpers.miniature.maps import CODES
from helpers.miniature.vocabulary import COLORS
from helpers.perception.preprocessing import check_images
from helpers.perception.scene_graph import parse

TAU = 0.1  # in squares of RGB in [0, 1], where neighbouring codes are 0.06 apart and most lie 0.3 to 1 from black
MOST = 1 - 1e-4  # of a probability, so that its logit is finite


@cache
def fitting(phrase: str) -> frozenset[tuple[str, str]]:
    """The (kind, colour) that a phrase may mean: of its kind, and of its colour where it names one. ValueError for a
    phrase that no code fits."""
    things = parse(phrase).objects
    words = set(things[0].attributes) if things else set()
    stated = words & set(COLORS)
    found = frozenset(pair for pair in CODES if things and pair[0] == things[0].noun and pair[1] in (stated or COLORS))
    if not found:
        raise ValueError(f"no code of a segmentation is a {phrase!r}: name a kind and a colour of MODEL_CARDS.md")
    return found


class CodeReader(nn.Module):
    """Reads segmentations (B, 3, H, W) in [0, 1] as `Segmenter` reads pictures."""

    def __init__(self, tau: float = TAU):
        super().__init__()
        if not tau > 0:
            raise ValueError(f"tau={tau!r}: say how far a pixel feels a code, more than 0")
        self.tau = tau
        self.register_buffer("codes", torch.tensor([(0, 0, 0), *CODES.values()]) / 255)

    def embed(self, phrases: Sequence[str]) -> torch.Tensor:
        """phrases -> (n, codes): 1 for the codes of their kind, of their colour where they name one. ValueError for a
        phrase that no code fits."""
        rows = [[0.0, *(float(pair in fitting(phrase)) for pair in CODES)] for phrase in phrases]
        return torch.tensor(rows, device=self.codes.device)

    def forward(self, images: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W), embeddings (n, codes) or (B, n, codes) -> logits (B, n, H, W), float32; differentiable
        with respect to the images."""
        check_images(images)
        pixels = images.float().flatten(2).transpose(1, 2)
        distance = (pixels[..., None, :] - self.codes).square().sum(-1)
        shares = (-distance / self.tau).softmax(-1)
        found = (shares @ embeddings.float().expand(len(images), -1, -1).transpose(1, 2)).transpose(1, 2)
        return found.clamp(1 - MOST, MOST).logit().unflatten(2, images.shape[-2:])

    def masks(self, images: torch.Tensor, phrases: Sequence[str]) -> torch.Tensor:
        """Probabilities (B, n, H, W) of the phrases in every map."""
        return self(images, self.embed(phrases)).sigmoid()
