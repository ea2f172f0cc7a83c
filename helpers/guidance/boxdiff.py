"""BoxDiff (Xie et al., ICCV 2023): Attend-and-Excite's maps and descent, with losses that know boxes.

With A the smoothed map of a region's token (see `helpers.guidance.attend_excite`) and m its box on the map's grid:

    L_in  = max(0, 1 - mean of the k largest of A m),   k = .2 sum m
    L_out = mean of the k largest of A (1 - m),         k = .2 sum (1 - m)
    L_x, L_y = mean of |max over the other axis of A - the same of m| over the cells next to the box's edges (+-1)
    L = sum over regions of L_in + L_out + L_x + L_y
"""

import torch
import torch.nn.functional as F

from helpers.attention import Recorded
from helpers.guidance.attend_excite import AttendExcite, subject_maps

SHARE = 0.2
REACH = 1


def crisp(boxes: torch.Tensor) -> torch.Tensor:
    """(..., h, w) shares of cells -> 0 or 1: those covered to at least half; the fullest when there is none such."""
    return (boxes >= boxes.amax((-2, -1), keepdim=True).clamp(max=0.5)).to(boxes) * (boxes > 0)


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
        outer = F.pad(wanted, (1, 1))
        edges = wanted * (1 - outer[..., :-2] * outer[..., 2:])  # the first and the last cell of the box
        near = F.max_pool1d(edges, 2 * REACH + 1, 1, REACH)
        total = total + ((found - wanted).abs() * near).sum(-1) / near.sum(-1).clamp(min=1)
    return total


def boxed(maps: torch.Tensor, boxes: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """L (B,), of maps and crisp boxes (B, N, h, w) where valid (B, N)."""
    inside = (1 - largest((maps * boxes).flatten(-2), SHARE * boxes.sum((-2, -1)))).clamp(min=0)
    outside = largest((maps * (1 - boxes)).flatten(-2), SHARE * (1 - boxes).sum((-2, -1)))
    return torch.where(valid, inside + outside + corners(maps, boxes), 0).sum(1)


class BoxDiff(AttendExcite):
    """As AttendExcite, without refinement unless `refined` asks for it."""

    own_goals = {}

    def loss(self, seen: Recorded, index: list[int]) -> torch.Tensor:
        regions = self._regions.part(index)
        maps = subject_maps(seen, regions.nouns, self.looks_at)
        return boxed(maps, crisp(regions.places(*maps.shape[-2:])), regions.valid)
