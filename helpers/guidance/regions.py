"""What attention methods read of layouts: which tokens name a region, and where it lies at a layer's resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from helpers.attention import Site
from helpers.conditions import Layout
from helpers.guidance.base import Guidance, Job
from helpers.tokens import locate, phrase_tokens


@dataclass
class Regions:
    """The regions of n images, padded to the largest number N. layouts: as they came. phrases, nouns: (n, N, T) bool,
    the tokens of a region's phrase and of its last word. masks: (n, N, H, W) in [0, 1] at the image's resolution.
    valid: (n, N) bool, which regions exist. latents: height and width.
    """

    layouts: Sequence[Layout]
    phrases: torch.Tensor
    nouns: torch.Tensor
    masks: torch.Tensor
    valid: torch.Tensor
    latents: tuple[int, int]

    @classmethod
    def of(cls, job: Job, layouts: Sequence[Layout], method: str) -> "Regions":
        """ValueError when the layouts are not those of the run's prompts; method: whose they are, for the error."""
        check_layouts(job, layouts, method)
        backbone, device = job.backbone, job.backbone.device
        n, most = len(layouts), max(len(layout.regions) for layout in layouts)
        length = backbone.pipe.tokenizer.model_max_length
        height, width = backbone.image_size
        phrases, nouns = torch.zeros(2, n, most, length, dtype=torch.bool)
        masks, valid = torch.zeros(n, most, height, width), torch.zeros(n, most, dtype=torch.bool)
        for k, layout in enumerate(layouts):
            masks[k, : len(layout.regions)] = layout.masks(height, width)
            valid[k, : len(layout.regions)] = True
            for r, region in enumerate(layout.regions):
                start = locate(layout.prompt, region.phrase, region.start)
                noun = region.phrase.split()[-1]
                at = start + region.phrase.rindex(noun)
                phrases[k, r, phrase_tokens(backbone.pipe.tokenizer, layout.prompt, region.phrase, start)] = True
                nouns[k, r, phrase_tokens(backbone.pipe.tokenizer, layout.prompt, noun, at)] = True
        phrases, nouns, valid = phrases.to(device), nouns.to(device), valid.to(device)
        return cls(layouts, phrases, nouns, masks.to(device, backbone.dtype), valid, backbone.latent_shape[1:])

    def part(self, index: Sequence[int]) -> "Regions":
        """The regions of the images at these places of the run."""
        index = list(index)
        kept = [self.layouts[k] for k in index]
        tensors = (self.phrases, self.nouns, self.masks, self.valid)
        return Regions(kept, *(tensor[index] for tensor in tensors), self.latents)

    def places(self, height: int, width: int) -> torch.Tensor:
        """(n, N, height, width) in [0, 1]: the share of every cell that a region covers."""
        return F.adaptive_avg_pool2d(self.masks, (height, width))

    def pixels(self, site: Site) -> torch.Tensor:
        """(n, N, P): the same over the pixels of an attention layer."""
        return self.places(*site.grid(*self.latents)).flatten(2)


def of_tokens(per_region: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(n, N, P) values and (n, N, T) bool -> (n, 1, P, T): the largest value of the regions a token names, or 0."""
    return torch.where(tokens[:, :, None], per_region[..., None], 0).amax(1)[:, None]


def of_regions(probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(n, ..., P, T) attention and (n, N, T) bool -> (n, ..., N, P): a region's mean over its tokens."""
    share = tokens / tokens.sum(-1, keepdim=True).clamp(min=1)
    shape = [len(share), *[1] * (probs.ndim - 3), *share.shape[1:]]
    return share.view(shape).to(probs) @ probs.transpose(-1, -2)


class OnLayouts(Guidance):
    """A method that is given one layout per image; `_regions` is there after setup. own: which of its attributes a
    Trace names beside those of every method."""

    own: tuple[str, ...] = ()

    def __init__(self, layouts: Sequence[Layout]):
        self.layouts = list(layouts)

    def settings(self) -> dict:
        return super().settings() | {name: getattr(self, name) for name in self.own}

    def setup(self, job: Job) -> None:
        self._regions = Regions.of(job, self.layouts, type(self).__name__)


def check_layouts(job: Job, layouts: Sequence[Layout], method: str) -> None:
    """ValueError unless there is one layout per image, for its prompt."""
    if len(layouts) != len(job.prompts):
        raise ValueError(f"{method} has {len(layouts)} layouts for {len(job.prompts)} prompts: give one per image")
    for k, (layout, prompt) in enumerate(zip(layouts, job.prompts, strict=True)):
        if layout.prompt != prompt.text:
            raise ValueError(
                f"image {k} is drawn from {prompt.text!r} but its layout is for {layout.prompt!r}: "
                "pass the layouts in the order of the prompts"
            )
