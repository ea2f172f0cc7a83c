"""BoxDiff (Xie et al., ICCV 2023): Attend-and-Excite's maps and descent, with losses that know boxes.

With A the smoothed map of a region's token (see `helpers.guidance.attend_excite`) and m the cells of its box
on the map's grid:

    L_in  = max(0, 1 - mean of the k largest of A m),   k = .2 sum m
    L_out = mean of the k largest of A (1 - m),         k = .2 sum (1 - m)
    L_x, L_y = mean of |max over the other axis of A - the same of m| over the cells next to the box's edges (+-1)
    L = sum over regions of L_in + L_out + L_x + L_y
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from helpers.backbones.attention import Recorded
from helpers.backbones.tokens import Tokens
from helpers.guidance.attend_excite import AttendExcite, Goals, subject_maps
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


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxDiff(AttendExcite):
    """As AttendExcite with another loss, which reads the layouts' places, and without refinement unless asked for."""

    scale: float = setting(40.0, low=0, high=1e4)  # alpha_0; paper 20; 10 to 40
    refined: Goals = Goals()  # noqa: RUF009 (frozen); paper

    def loss(self, seen: Recorded, regions: Regions, tokens: Tokens) -> torch.Tensor:
        maps = subject_maps(seen, regions.nouns, self.reads, tokens)
        return boxed(maps, regions.cells(*maps.shape[-2:]), regions.valid)
