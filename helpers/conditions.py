"""What the user asks for, as plain validated data: JSON in (`model_validate_json`) and JSON out (`model_dump_json`)."""

import re
from itertools import groupby

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from helpers.tokens import locate


def encode_mask(mask: np.ndarray) -> str:
    """Boolean (H, W) mask -> "HxW:a,b,c,...": lengths of alternating runs in row order, beginning with False."""
    flat = np.asarray(mask, bool).ravel()
    runs = [(bool(value), len(list(run))) for value, run in groupby(flat)]
    lengths = ([0] if runs[0][0] else []) + [n for _, n in runs]
    return f"{mask.shape[0]}x{mask.shape[1]}:{','.join(map(str, lengths))}"


def decode_mask(text: str) -> np.ndarray:
    """The inverse of `encode_mask`: bool (H, W). ValueError when the runs do not fill the size."""
    match = re.fullmatch(r"(\d+)x(\d+):(\d+(?:,\d+)*)", text)
    if not match:
        raise ValueError(f"the mask {text[:40]!r} is not of the form 'HxW:run,run,...': make it with encode_mask")
    height, width = int(match[1]), int(match[2])
    lengths = [int(n) for n in match[3].split(",")]
    if sum(lengths) != height * width:
        raise ValueError(
            f"the runs of the mask {text[:40]!r} hold {sum(lengths)} pixels, its size {height}x{width} says "
            f"{height * width}: make it with encode_mask"
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(height, width)


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompt(_Data):
    """A text to draw; `negative` is what classifier-free guidance steers away from ("" = the empty caption)."""

    text: str
    negative: str = ""

    @field_validator("text")
    @classmethod
    def _says_something(cls, text):
        if not text.strip():
            raise ValueError(f"the prompt {text!r} is empty: say what to draw")
        return text


class Region(_Data):
    """Where a phrase of the prompt belongs: in a box, or exactly on a mask (when both are given the mask wins).

    phrase: words copied from the prompt. start: the character where it begins; needed only when it occurs twice.
    box: (x0, y0, x1, y1) as fractions of the image's width and height, in [0, 1], x0 < x1, y0 < y1.
    mask: a boolean mask as text, see `encode_mask`.
    """

    phrase: str
    start: int | None = None
    box: tuple[float, float, float, float] | None = None
    mask: str | None = None

    @model_validator(mode="after")
    def _check(self):
        if not self.phrase.strip():
            raise ValueError(f"a region's phrase is {self.phrase!r}: copy one from the prompt")
        if self.box is None and self.mask is None:
            raise ValueError(f"the region {self.phrase!r} has neither box nor mask: give one")
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if not all(0 <= v <= 1 for v in self.box):
                raise ValueError(
                    f"the box {self.box} of {self.phrase!r} leaves the image: use fractions of its width and height "
                    "between 0 and 1"
                )
            if x0 >= x1 or y0 >= y1:
                raise ValueError(f"the box {self.box} of {self.phrase!r} has no area: order it (x0, y0, x1, y1)")
        if self.mask is not None and not decode_mask(self.mask).any():
            raise ValueError(f"the mask of {self.phrase!r} is empty: mark at least one pixel")
        return self


class Layout(_Data):
    """A prompt and the regions of some of its phrases."""

    prompt: str
    regions: tuple[Region, ...]

    @model_validator(mode="after")
    def _check(self):
        Prompt(text=self.prompt)
        if not self.regions:
            raise ValueError(f"the layout of {self.prompt!r} has no regions: give at least one")
        seen = set()
        for region in self.regions:
            place = locate(self.prompt, region.phrase, region.start)
            if (region.phrase, place) in seen:
                raise ValueError(
                    f"two regions of {self.prompt!r} are for the same phrase {region.phrase!r} at character {place}: "
                    "keep one, or join their masks"
                )
            seen.add((region.phrase, place))
        return self

    def masks(self, height: int, width: int) -> torch.Tensor:
        """(n, H, W) float32 in [0, 1]: masks as they are, boxes with the covered share of every border pixel."""
        return torch.stack([_rasterise(region, height, width) for region in self.regions])

    def boxes_only(self) -> "Layout":
        """The same layout without masks; ValueError when a region has no box (see `as_boxes`)."""
        return self._keep("box", "mask", "as_boxes() makes boxes of masks")

    def masks_only(self) -> "Layout":
        """The same layout without boxes; ValueError when a region has no mask."""
        return self._keep("mask", "box", "give every region a mask")

    def as_boxes(self) -> "Layout":
        """Every mask replaced by its tight box."""
        boxed = [r if r.mask is None else Region(phrase=r.phrase, start=r.start, box=_tight(r)) for r in self.regions]
        return Layout(prompt=self.prompt, regions=tuple(boxed))

    def _keep(self, wanted, other, cure):
        for region in self.regions:
            if getattr(region, wanted) is None:
                raise ValueError(f"the region {region.phrase!r} has no {wanted}: {cure}")
        regions = tuple(region.model_copy(update={other: None}) for region in self.regions)
        return Layout(prompt=self.prompt, regions=regions)


def _tight(region: Region) -> tuple[float, float, float, float]:
    mask = decode_mask(region.mask)
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return float(xs[0] / width), float(ys[0] / height), float((xs[-1] + 1) / width), float((ys[-1] + 1) / height)


def _rasterise(region: Region, height: int, width: int) -> torch.Tensor:
    if region.mask is not None:
        mask = decode_mask(region.mask)
        if mask.shape != (height, width):
            raise ValueError(
                f"the mask of {region.phrase!r} is {mask.shape[0]}x{mask.shape[1]}, the masks here are "
                f"{height}x{width}: resize it and encode it again with encode_mask"
            )
        return torch.from_numpy(mask).float()
    x0, y0, x1, y1 = region.box
    return torch.outer(_covered(y0, y1, height), _covered(x0, x1, width))


def _covered(start: float, stop: float, n: int) -> torch.Tensor:
    """The share of each of n pixels that lies between two fractions."""
    left = torch.arange(n, dtype=torch.float64)
    return ((left + 1).clamp(max=stop * n) - left.clamp(min=start * n)).clamp(min=0).float()
