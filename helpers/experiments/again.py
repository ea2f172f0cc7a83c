"""Benchmark cases drawn again until the guides accept the picture: `helpers.best_of` around `draw_benchmark`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from helpers.best_of import OTHER_NOISE, best_of
from helpers.drawn import Drawn
from helpers.miniature.benchmark import Case as Scene

SPENT = ("seconds", "nfe")  # what the tries of a picture add up to


def draw_again(
    draw: Callable[[Sequence[Scene], int], Drawn],
    verify: Callable[[torch.Tensor, list[int]], torch.Tensor],
    scenes: Sequence[Scene],
    tries: int,
    showcase: int = 0,
) -> Drawn:
    """The scenes' pictures, each the best of at most `tries`.

    draw(scenes, n): the pictures of some of them from their own seeds, the first n traced, such as `draw_benchmark`.
    Seed and Trace of a picture are those of the kept try; its seconds, those of verifying among them, and NFE are
    the sums over all its tries, its peak memory is the highest of them.
    """
    done: list[tuple[list[int], Drawn]] = []  # of every try: the places of its scenes, and what was drawn
    checking = [0.0] * len(scenes)

    def attempt(rows: list[int], k: int) -> torch.Tensor:
        asked = [scenes[row].model_copy(update={"seed": scenes[row].seed + OTHER_NOISE * k}) for row in rows]
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
    return Drawn(best.images, rows, [warning for _, drawn in done for warning in drawn.warnings], trace)
