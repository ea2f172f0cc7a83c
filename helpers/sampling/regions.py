"""What attention methods read of layouts: which keys name a region, and where it lies at a layer's resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from helpers.backbones.attention import Layers, Site
from helpers.conditions import Layout, locate
from helpers.sampling.hooks import Job, per_image


@dataclass
class Regions:
    """The regions of n images, padded to the largest number N. layouts: as they came. phrases, nouns: (n, N, T) bool,
    the text keys of a region's phrase and of its last word, in the sequence of every text encoder. masks: (n, N, H, W)
    in [0, 1] at the image's resolution, float32 or wider. valid: (n, N) bool, which regions exist.
    """

    layouts: Sequence[Layout]
    phrases: torch.Tensor
    nouns: torch.Tensor
    masks: torch.Tensor
    valid: torch.Tensor

    @classmethod
    def of(cls, job: Job, layouts: Layout | Sequence[Layout], method: str, reads: Layers | None = None) -> "Regions":
        """One layout for all images or one per image, whose names `method` needs for its errors; reads: the attention
        that it will look at. ValueError when layouts do not fit the run's prompts, or the denoiser has no such layer.
        """
        layouts, backbone = per_image(layouts, Layout, job, method), job.backbone
        with backbone.attention(1, [] if reads is None else [reads]):
            pass  # there are such layers
        n, most = len(layouts), max(len(layout.regions) for layout in layouts)
        height, width = backbone.image_size
        phrases, nouns = torch.zeros(2, n, most, backbone.tokens.total, dtype=torch.bool)
        masks, valid = torch.zeros(n, most, height, width), torch.zeros(n, most, dtype=torch.bool)
        for k, layout in enumerate(layouts):
            masks[k, : len(layout.regions)] = layout.masks(height, width)
            valid[k, : len(layout.regions)] = True
            for r, region in enumerate(layout.regions):
                start = locate(layout.prompt, region.phrase, region.start)
                noun = region.phrase.split()[-1]
                at = start + region.phrase.rindex(noun)
                phrases[k, r, backbone.tokens.of(layout.prompt, region.phrase, start)] = True
                nouns[k, r, backbone.tokens.of(layout.prompt, noun, at)] = True
        phrases, nouns, valid = phrases.to(backbone.device), nouns.to(backbone.device), valid.to(backbone.device)
        wide = torch.promote_types(backbone.dtype, torch.float32)
        return cls(layouts, phrases, nouns, masks.to(backbone.device, wide), valid)

    def part(self, index: Sequence[int]) -> "Regions":
        """The regions of the images at these places of the run."""
        index = list(index)
        kept = [self.layouts[k] for k in index]
        return Regions(kept, *(tensor[index] for tensor in (self.phrases, self.nouns, self.masks, self.valid)))

    def places(self, height: int, width: int) -> torch.Tensor:
        """(n, N, height, width) in [0, 1]: the share of every cell that a region covers."""
        return F.adaptive_avg_pool2d(self.masks, (height, width))

    def cells(self, height: int, width: int) -> torch.Tensor:
        """(n, N, height, width) of 0 and 1: the cells that are a region's, see `crisp`."""
        return crisp(self.places(height, width))

    def pixels(self, site: Site) -> torch.Tensor:
        """(n, N, P): `places` over the pixels of an attention layer."""
        return self.places(*site.grid).flatten(2)


def crisp(shares: torch.Tensor) -> torch.Tensor:
    """(..., h, w) shares of cells -> 0 or 1: those covered to at least half; the fullest where there is none such, so
    that no region vanishes on a coarse grid."""
    most = shares.amax((-2, -1), keepdim=True)
    least = torch.where(most < 0.5, 0.999 * most, 0.5)  # equally full cells differ by rounding
    return ((shares >= least) & (shares > 0)).to(shares)


def of_tokens(per_region: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(n, N, P) values and (n, N, T) bool -> (n, 1, P, T): the largest value of the regions a token names, or 0."""
    return torch.where(tokens[:, :, None], per_region[..., None], 0).amax(1)[:, None]


def of_regions(probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(n, ..., P, T) attention and (n, N, T) bool -> (n, ..., N, P): a region's mean over its tokens."""
    share = tokens / tokens.sum(-1, keepdim=True).clamp(min=1)
    shape = [len(share), *[1] * (probs.ndim - 3), *share.shape[1:]]
    return share.view(shape).to(probs) @ probs.transpose(-1, -2)
