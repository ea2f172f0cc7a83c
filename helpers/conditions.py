"""What the user asks for, as plain validated data: JSON in (`model_validate_json`) and JSON out (`model_dump_json`)."""

import base64
import io
import re
from numbers import Integral, Real
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator, model_validator

LARGEST = 4096 * 4096  # pixels of a mask or a picture; a text of a few letters could ask for any number
ROUNDING = 1e-3  # of a pixel


def encode_mask(mask: np.ndarray) -> str:
    """Boolean (H, W) mask -> "HxW:a,b,c,...": lengths of alternating runs in row order, beginning with False.

    ValueError for other shapes, and for values that are neither True nor False (0 and 1 are taken).
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask is (H, W), got {mask.shape}: give one mask, without other axes")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"a mask says True or False, this {mask.dtype} one has other values: compare it, as in x > 0.5"
        )
    flat = mask.astype(bool).ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff([0, *changes, flat.size]).tolist()
    return f"{mask.shape[0]}x{mask.shape[1]}:{','.join(map(str, [0] * bool(flat[0]) + lengths))}"


def decode_mask(text: str) -> np.ndarray:
    """The inverse of `encode_mask`: bool (H, W). ValueError when the runs do not fill the size, or it is too large."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9}):(\d{1,18}(?:,\d{1,18})*)", text, re.ASCII)
    if not match:
        raise ValueError(f"the mask {text[:40]!r} is not of the form 'HxW:run,run,...': make it with encode_mask")
    height, width = int(match[1]), int(match[2])
    _check_size("the mask", height, width)
    lengths = [int(n) for n in match[3].split(",")]
    if sum(lengths) != height * width:
        raise ValueError(
            f"the runs of the mask {text[:40]!r} hold {sum(lengths)} pixels, its size {height}x{width} says "
            f"{height * width}: make it with encode_mask"
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(height, width)


def encode_image(image: np.ndarray) -> str:
    """(H, W, 3) image, uint8 or floats in [0, 1] -> its PNG as base64 text. Grey is (H, W); RGBA lies on white.

    ValueError for other shapes, types and values.
    """
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3) or not pixels.size or pixels.shape[2:] not in ((), (1,), (3,), (4,)):
        first = " channels come last: image.transpose(1, 2, 0)" if pixels.shape[:1] in ((1,), (3,), (4,)) else ""
        raise ValueError(
            f"a picture is (H, W, 3), or (H, W) where it is grey, got {pixels.shape}:{first or ' reshape it'}"
        )
    if pixels.dtype.kind == "f":
        if not (pixels >= 0).all() or not (pixels <= 1).all():
            raise ValueError(
                f"a {pixels.dtype} picture has values from {pixels.min():g} to {pixels.max():g}: scale them to [0, 1]"
            )
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"a picture is uint8, or floats in [0, 1], got {pixels.dtype}: convert it")
    _check_size("the picture", *pixels.shape[:2])
    file = io.BytesIO()
    grey = pixels.shape[2:] == (1,)
    _opaque(Image.fromarray(pixels[:, :, 0] if grey else pixels)).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def decode_image(text: str) -> np.ndarray:
    """The inverse of `encode_image`, also of other PNG and JPEG files: uint8 (H, W, 3). ValueError when the text holds
    no image, or too large a one."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))  # the header alone
    except Exception:  # whatever a decoder stumbles over
        raise ValueError(f"{text[:40]!r} is no image as base64 text: make it with encode_image") from None
    _check_size("the picture", image.height, image.width)
    try:
        image.load()
    except Exception as error:
        raise ValueError(f"the image {text[:40]!r} is damaged ({error}): make it with encode_image") from None
    return np.asarray(_opaque(ImageOps.exif_transpose(image)))


def _opaque(image: Image.Image) -> Image.Image:
    """Any picture as 8-bit RGB, as it is seen on white paper."""
    if image.mode == "F":
        raise ValueError("the picture holds floats in a file: save it with 8 bits per channel")
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion cuts at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _check_size(name: str, height: int, width: int) -> None:
    if not 0 < height * width <= LARGEST:
        raise ValueError(
            f"{name} is {height}x{width}: at least one and at most {LARGEST:,} pixels are served, resize it"
        )


def _number(value: object, kind: type = Real) -> object:
    if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
        raise ValueError(
            f"{value!r} is no {'whole number' if kind is Integral else 'number'}: write one without quotes"
        )
    return int(value) if kind is Integral else float(value)


Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(lambda value: _number(value, Integral))]
Point = tuple[Number, Number]


def locate(prompt: str, phrase: str, start: int | None = None) -> int:
    """The character where `phrase` begins in `prompt`, as whole words; ValueError when absent or ambiguous."""
    starts = [i for i in range(len(prompt)) if prompt.startswith(phrase, i) and _whole_words(prompt, i, len(phrase))]
    if not starts:
        raise ValueError(f"the phrase {phrase!r} is not in the prompt {prompt!r}: copy it from the prompt, whole words")
    if start is None and len(starts) > 1:
        raise ValueError(
            f"the phrase {phrase!r} occurs {len(starts)} times in the prompt {prompt!r}: "
            f"say which one with start={' or '.join(map(str, starts))}"
        )
    if start is not None and start not in starts:
        raise ValueError(
            f"the phrase {phrase!r} does not begin at start={start} of the prompt {prompt!r}: "
            f"use start={' or '.join(map(str, starts))}"
        )
    return starts[0] if start is None else start


def _whole_words(prompt: str, start: int, length: int) -> bool:
    around = prompt[start - 1 : start] + prompt[start + length : start + length + 1]
    return not any(c.isalnum() for c in around)


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, *values, **fields):
        if values:
            names = ", ".join(f"{name}=..." for name in type(self).model_fields)
            raise TypeError(f"{type(self).__name__} takes its values by name, got {values[0]!r:.60}: write {names}")
        super().__init__(**fields)


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
    mask: a boolean mask as text, see `encode_mask`, of the whole image at any size.
    """

    phrase: str
    start: Whole | None = None
    box: tuple[Number, Number, Number, Number] | None = None
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
        """(n, H, W) float32 in [0, 1]: the share of every pixel that a box, or a mask of any size, covers."""
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
        mask = torch.from_numpy(decode_mask(region.mask)).float()
        return (_overlap(height, len(mask)) @ mask @ _overlap(width, mask.size(1)).T).clamp(0, 1)
    x0, y0, x1, y1 = region.box
    return torch.outer(_covered(y0, y1, height), _covered(x0, x1, width))


def _covered(start: float, stop: float, n: int) -> torch.Tensor:
    """The share of each of n pixels that lies between two fractions."""
    left = torch.arange(n, dtype=torch.float64)
    return ((left + 1).clamp(max=stop * n) - left.clamp(min=start * n)).clamp(min=0).float()


def _overlap(n: int, m: int) -> torch.Tensor:
    """(n, m): the share of each of n pixels that lies in each of m along the same line."""
    edges, left = torch.arange(n + 1, dtype=torch.float64)[:, None] * m / n, torch.arange(m, dtype=torch.float64)
    common = torch.minimum(edges[1:], left + 1) - torch.maximum(edges[:-1], left)
    return (common.clamp(min=0) * n / m).float()


class Move(_Data):
    """Drag the point `handle` to `target`: (x, y) as fractions of the image's width and height, in [0, 1]."""

    handle: Point
    target: Point

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
            raise ValueError(f"the drag of {self.prompt!r} has no handles: give at least one Move(handle=, target=)")
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
        if not _stays(mask, self.moves):
            raise ValueError(
                f"the drag of {self.prompt!r} moves all of its mask out of the image, so that nothing guides it: put "
                f"the target {self.moves[0].target} further inside"
            )
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


def _stays(mask: np.ndarray, moves: tuple[Move, ...]) -> bool:
    """Is a pixel of the mask still in the image when each follows the handle next to it?"""
    size = np.array(mask.shape[::-1])
    places = np.argwhere(mask)[:, ::-1]
    handles, targets = (np.array([getattr(move, name) for move in moves]) * size for name in ("handle", "target"))
    ways = targets - handles
    nearest = np.stack([np.square(places + 0.5 - handle).sum(1) for handle in handles]).argmin(0)
    moved = places + ways[nearest]
    return bool(((moved > -ROUNDING) & (moved < size - 1 + ROUNDING)).all(1).any())
