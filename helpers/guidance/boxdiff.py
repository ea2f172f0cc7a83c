"""BoxDiff (Xie et al., ICCV 2023): Attend-and-Excite's maps and descent, with losses that know boxes.

With A the smoothed map of a region's token (see `helpers.guidance.attend_excite`) and m the cells of its box on the
map's grid, corners rounded, x0 and y0 its first column and row, x1 and y1 those after its last:

    L_in  = max(0, 1 - mean of the k largest of A m),   k = .2 sum m, at least 1
    L_out = mean of the k largest of A (1 - m),         k = .2 sum (1 - m), at least 1
    L_x   = mean over all columns of |max over rows of A - the same of m| near x0 or x1 (+-1), else 0; L_y by rows
    L = sum over regions of L_in + L_out + L_x + L_y

Refinement is Attend-and-Excite's, of the largest L_in alone.

Paper: arXiv 2307.10816. Official code: github.com/showlab/BoxDiff, whose k of L_in may be 0.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from helpers.guidance.attend_excite import AttendExcite
from helpers.sampling.reads import rounded
from helpers.sampling.regions import Regions
from helpers.sampling.settings import setting

SHARE = 0.2
REACH = 1


def largest(values: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(..., P), (...) -> (...): the mean of the k largest, at least one."""
    count = k.long().clamp(min=1)[..., None]
    ranked = values.sort(-1, descending=True).values
    chosen = torch.arange(values.size(-1), device=values.device) < count
    return (ranked * chosen).sum(-1) / count[..., 0]


def corners(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(B, N, h, w) -> (B, N): L_x + L_y."""
    total = 0
    for axis in (-2, -1):  # what is projected away
        found, wanted = maps.amax(axis), boxes.amax(axis)
        before, here = (F.pad(wanted, one) for one in ((1, 0), (0, 1)))
        edges = (here - before).abs()[..., None, :]  # (B, N, 1, length + 1): 1 at x0 and at x1
        near = F.max_pool1d(edges.flatten(0, 1), 2 * REACH + 1, 1, REACH).view_as(edges)[..., 0, :-1]
        total = total + ((found - wanted).abs() * near).mean(-1)
    return total


def inside(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(B, N, h, w) -> (B, N): L_in."""
    return (1 - largest((maps * boxes).flatten(-2), SHARE * boxes.sum((-2, -1)))).clamp(min=0)


def boxed(maps: torch.Tensor, boxes: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """L (B,), of maps and crisp boxes (B, N, h, w) where valid (B, N)."""
    outside = largest((maps * (1 - boxes)).flatten(-2), SHARE * (1 - boxes).sum((-2, -1)))
    return torch.where(valid, inside(maps, boxes) + outside + corners(maps, boxes), 0).sum(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxDiff(AttendExcite):
    """As AttendExcite with another loss, which reads the boxes of the layouts."""

    scale: float = setting(40.0, low=0, high=1e4)  # alpha_0; paper 20; 10 to 80

    def loss(self, maps: torch.Tensor, regions: Regions) -> torch.Tensor:
        return boxed(maps, rounded(regions, *maps.shape[-2:]), regions.valid)

    def unreached(self, maps: torch.Tensor, regions: Regions) -> torch.Tensor:
        return torch.where(regions.valid, inside(maps, rounded(regions, *maps.shape[-2:])), 0).amax(1)
