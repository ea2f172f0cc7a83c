"""Sampling-based prompt compliance (SBPC): of N cheap conditions the one that shows most of what the prompt asks for.

    y^(n) ~ p(y | text), n = 1 ... N          recall_n = |objects(text) and objects(y^(n))| / |objects(text)|
    y* = y^(argmax_n recall_n), the first of equals;        x ~ p(x | y*, text) once

Paper: FG-DM, arXiv 2410.21638, section 4. Its released code draws no second candidate and computes no recall; when an
object counts as there is *reconstructed*, see `helpers.factor_graph.reading.PRESENT`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from helpers.sampling.best_of import try_seed


@dataclass
class Chosen:
    """maps (n, 3, h, w): the kept conditions. recall (n, N): of every candidate. kept (n,): its position."""

    maps: torch.Tensor
    recall: torch.Tensor
    kept: torch.Tensor


def most_compliant(
    draw: Callable[[list[int], list[int]], torch.Tensor],
    recall: Callable[[torch.Tensor, int], float],
    seeds: Sequence[int],
    candidates: int,
) -> Chosen:
    """Draw `candidates` conditions for every prompt at once and keep the best of each.

    draw(rows, seeds): conditions (B, 3, h, w) of the prompts at these places, each with its seed. recall(condition,
    row): of the prompt's objects, in [0, 1]. ValueError for fewer than one candidate or prompt.
    """
    if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 1 or not seeds:
        raise ValueError(f"{candidates!r} candidates for {len(seeds)} prompts: draw a whole number, at least one each")
    rows = [row for row in range(len(seeds)) for _ in range(candidates)]
    tried = [try_seed(seed, k) for seed in seeds for k in range(candidates)]
    drawn = draw(rows, tried)
    if len(drawn) != len(rows):
        raise ValueError(f"draw made {len(drawn)} conditions for {len(rows)} seeds: one for each is needed")
    found = torch.tensor([recall(one, row) for one, row in zip(drawn, rows)]).view(len(seeds), candidates)
    kept = found.argmax(1)
    return Chosen(drawn.unflatten(0, (len(seeds), candidates))[torch.arange(len(seeds)), kept], found, kept)
