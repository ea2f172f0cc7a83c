"""Benchmark cases, each the best of N: `helpers.sampling.best_of` around `draw_benchmark`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from helpers.benchmarks.base import Item
from helpers.pipeline.samples import Samples
from helpers.sampling.best_of import best_of, try_seed

SPENT = ("seconds", "nfe")  # what the tries of a picture add up to


def draw_best(
    draw: Callable[[Sequence[Item], int], Samples],
    verify: Callable[[torch.Tensor, list[int]], torch.Tensor],
    scenes: Sequence[Item],
    tries: int,
    showcase: int = 0,
) -> Samples:
    """The scenes' pictures, each the best of at most `tries`.

    draw(scenes, n): the pictures of some of them from their own seeds, the first n traced, such as `draw_benchmark`.
    Seed and Trace of a picture are those of the kept try; its seconds, those of verifying among them, and NFE are
    the sums over all its tries, its peak memory is the highest of them.
    """
    done: list[tuple[list[int], Samples]] = []  # of every try: the places of its scenes, and what was drawn
    checking = [0.0] * len(scenes)

    def attempt(rows: list[int], k: int) -> torch.Tensor:
        asked = [scenes[row].model_copy(update={"seed": try_seed(scenes[row].seed, k)}) for row in rows]
        done.append((rows, draw(asked, sum(row < showcase for row in rows))))
        return done[k][1].images

    def timed(images: torch.Tensor, rows: list[int]) -> torch.Tensor:
        start = time.perf_counter()
        verdicts = verify(images, rows)
        for row in rows:
            checking[row] += (time.perf_counter() - start) / len(rows)
        return verdicts

    best = best_of(attempt, timed, len(scenes), tries)
    rows, records = [], []
    for place, kept in enumerate(best.kept.tolist()):
        tried = [drawn.rows[places.index(place)] for places, drawn in done if place in places]
        sums = {name: sum(row[name] for row in tried) for name in SPENT}
        sums["seconds"] += checking[place]
        rows.append(tried[kept] | sums | {"peak_mb": max(row["peak_mb"] for row in tried)})
        if place < showcase:
            places, drawn = done[kept]
            records.append(replace(drawn.trace.records[places.index(place)], index=place))
    trace = done[0][1].trace
    if trace:
        trace.records = records
    return Samples(best.images, rows, [warning for _, drawn in done for warning in drawn.warnings], trace)
