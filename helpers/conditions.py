"""What the user asks for, as plain validated data: JSON in (`model_validate_json`) and JSON out (`model_dump_json`)."""

import base64
import binascii
import io
import re
from itertools import groupby

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
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


def encode_image(image: np.ndarray) -> str:
    """uint8 (H, W, 3) image -> its PNG as base64 text."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def decode_image(text: str) -> np.ndarray:
    """The inverse of `encode_image`: uint8 (H, W, 3). ValueError when the text holds no image."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            return np.asarray(image.convert("RGB"))
    except (binascii.Error, UnidentifiedImageError, OSError):
        raise ValueError(f"{text[:40]!r} is no image as base64 text: make it with encode_image") from None


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


class Move(_Data):
    """Drag the point `handle` to `target`: (x, y) as fractions of the image's width and height, in [0, 1]."""

    handle: tuple[float, float]
    target: tuple[float, float]

    @model_validator(mode="after")
    def _check(self):
        for name, point in {"handle": self.handle, "target": self.target}.items():
            if not all(0 <= v <= 1 for v in point):
                raise ValueError(
                    f"the {name} {point} lies outside the image: use fractions of its width and height between 0 and 1"
                )
        return self


class Drag(_Data):
    """A source image, what it shows, and where points of it shall go; a handle with its own target holds its object.

    prompt: describes the picture. source: the image as text, see `encode_image`. mask: what moves with the handles, as
    text (see `encode_mask`), every handle on it; None leaves that to a click segmenter.
    """

    prompt: str
    source: str
    moves: tuple[Move, ...]
    mask: str | None = None

    @model_validator(mode="after")
    def _check(self):
        Prompt(text=self.prompt)
        height, width = decode_image(self.source).shape[:2]
        if not self.moves:
            raise ValueError(f"the drag of {self.prompt!r} has no handles: give at least one Move(handle, target)")
        handles = [move.handle for move in self.moves]
        twice = next((h for h in handles if handles.count(h) > 1), None)
        if twice:
            raise ValueError(f"the drag of {self.prompt!r} has two targets for the handle {twice}: keep one")
        if all(move.handle == move.target for move in self.moves):
            raise ValueError(f"the drag of {self.prompt!r} has no motion, {handles[0]} stays: set a target elsewhere")
        if self.mask is None:
            return self
        mask = decode_mask(self.mask)
        if mask.shape != (height, width):
            raise ValueError(
                f"the mask of the drag of {self.prompt!r} is {mask.shape[0]}x{mask.shape[1]}, its source image "
                f"{height}x{width}: resize the mask and encode it again with encode_mask"
            )
        if not mask.any():
            raise ValueError(
                f"the mask of the drag of {self.prompt!r} is empty: mark at least one pixel, or leave it out"
            )
        for x, y in handles:
            if not mask[min(int(y * height), height - 1), min(int(x * width), width - 1)]:
                raise ValueError(f"the handle {(x, y)} is not on the drag's mask: mark the object that it shall move")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the source image."""
        return decode_image(self.source).shape[:2]

    def image(self) -> torch.Tensor:
        """The source image, (3, H, W) float32 in [0, 1]."""
        return torch.from_numpy(decode_image(self.source).copy()).permute(2, 0, 1) / 255

    def points(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Handles and targets, each (k, 2) float32: x, y in pixels, (0, 0) the centre of the first one."""
        height, width = self.size
        places = torch.tensor([[move.handle, move.target] for move in self.moves])
        return tuple((places * torch.tensor([width, height]) - 0.5).unbind(1))
