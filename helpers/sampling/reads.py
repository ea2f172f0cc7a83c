"""Which attention a method looks at, and the crisp cells of boxes that papers' losses are written for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F

from helpers.backbones.attention import Layers, sites
from helpers.backbones.backbone import Backbone
from helpers.sampling.regions import Regions, crisp

PLACES = ("down", "mid", "up")


@dataclass(frozen=True)
class Reads:
    """Cross-attention layers by resolution and place.

    cells: along the shorter side of a layer's grid, of each the nearest that the denoiser has: 16 is what papers on
    Stable Diffusion call 16 x 16. places: of "down", "mid" and "up", None for all.
    """

    cells: tuple[int, ...] = (16,)
    places: tuple[str, ...] | None = None

    def __post_init__(self):
        if not self.cells or not all(type(n) is int and 1 <= n <= 512 for n in self.cells):
            raise ValueError(f"cells={list(self.cells)} must be whole numbers from 1 to 512, at least one")
        if self.places is not None and (not self.places or not set(self.places) <= set(PLACES)):
            raise ValueError(f"places={list(self.places)} must be some of {', '.join(PLACES)}")

    @classmethod
    def of(cls, data: Mapping | Sequence[int]) -> "Reads":
        """Of {"cells": [8, 16], "places": ["up"]}, or of cells alone."""
        if not isinstance(data, Mapping):
            return cls(tuple(data))
        unknown = set(data) - {"cells", "places"}
        if unknown:
            raise ValueError(f"unknown {', '.join(sorted(unknown))}: use cells and places")
        return cls(**{name: None if value is None else tuple(value) for name, value in data.items()})

    def settings(self) -> dict:
        return {"cells": list(self.cells), "places": None if self.places is None else list(self.places)}

    def on(self, backbone: Backbone) -> Layers:
        """The layers of this denoiser, at the size at which it draws."""
        chosen = Layers(places=self.places)
        there = sorted(
            {min(site.grid) for site in sites(backbone.denoiser, backbone.latent_shape[1:]) if site in chosen}
        )
        nearest = tuple(min(there, key=lambda n, of=of: abs(log(n / of)), default=of) for of in self.cells)
        return Layers(places=self.places, cells=nearest)


def extents(regions: Regions, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, N, height), (n, N, width) in [0, 1]: how much of every row and column of cells the regions reach over."""
    rows, columns = regions.masks.amax(-1), regions.masks.amax(-2)
    return F.adaptive_avg_pool1d(rows, height), F.adaptive_avg_pool1d(columns, width)


def rounded(regions: Regions, height: int, width: int) -> torch.Tensor:
    """(n, N, height, width) of 0 and 1: boxes with corners rounded to the grid, lower right edge exclusive; at least
    one row and one column, those covered most."""
    rows, columns = (crisp(covered[..., None])[..., 0] for covered in extents(regions, height, width))
    return rows[..., :, None] * columns[..., None, :]


def floored(regions: Regions, height: int, width: int) -> torch.Tensor:
    """The same with corners rounded down: a last row or column that is covered in part does not count, unless it is the
    only one."""
    rows, columns = (_floored(covered) for covered in extents(regions, height, width))
    return rows[..., :, None] * columns[..., None, :]


def subsampled(regions: Regions, height: int, width: int) -> torch.Tensor:
    """(n, N, height, width) of 0 and 1: the mask at every cell's upper left corner; where a region has none of these,
    its fullest cells."""
    found = (F.interpolate(regions.masks, (height, width), mode="nearest") >= 0.5).to(regions.masks)
    return torch.where(found.any(-1).any(-1)[..., None, None], found, regions.cells(height, width))


def _floored(covered: torch.Tensor) -> torch.Tensor:
    touched = covered > 0
    more = F.pad(touched, (-1, 1))  # is the next one touched?
    before = F.pad(touched, (1, -1))
    return (touched & (more | (covered > 0.999) | ~before)).to(covered)
