"""Scores of many images as means with intervals and as paired differences: the entries of metrics.json."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from helpers.benchmarks.miniature import Case
from helpers.metrics import stats
from helpers.metrics.distribution import KernelDistance, frechet
from helpers.metrics.layout import THRESHOLDS, AveragePrecision
from helpers.pipeline.score import Scored

Entry = dict[str, float]
FRECHET_DRAWS = 100  # each costs an eigenvalue problem; the number is informative only


@dataclass
class Evaluated:
    """Images of some benchmark cases, ready to be summarised and compared. rows: as in Scored. drawn: what is no mean
    over images, (1 + draws,) each: of all images, then of every bootstrap sample.
    """

    rows: list[dict]
    drawn: dict[str, np.ndarray]

    def values(self) -> dict[str, np.ndarray]:
        """The metrics that every image has its own value of: (n,) each."""
        names = [key for key in self.rows[0] if key not in ("id", "seed")]
        return {name: np.array([row[name] for row in self.rows], float) for name in names}

    def entries(self) -> dict[str, Entry]:
        """Metric -> {"mean", "lo", "hi", "n"}: 95 % bootstrap intervals over prompts."""
        means = {name: stats.mean(values) for name, values in self.values().items()}
        return means | {name: stats.interval(drawn, len(self.rows)) for name, drawn in self.drawn.items()}

    def minus(self, baseline: "Evaluated") -> dict[str, Entry]:
        """Metric -> {"mean", "lo", "hi"} of the paired differences; ValueError unless the benchmark cases are equal."""
        ours, theirs = ([row["id"] for row in of.rows] for of in (self, baseline))
        if ours != theirs:
            raise ValueError(f"{_first(ours, theirs)} of the baseline: score the same benchmark cases")
        base = baseline.values()
        entries = {name: stats.paired_difference(values, base[name]) for name, values in self.values().items()}
        entries |= {name: stats.interval(drawn - baseline.drawn[name], len(ours)) for name, drawn in self.drawn.items()}
        return {name: {key: entry[key] for key in ("mean", "lo", "hi")} for name, entry in entries.items()}


def _first(ours: list[str], theirs: list[str]) -> str:
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            return f"{one!r} cannot be paired with {other!r}"
    return f"{len(ours)} images cannot be paired with {len(theirs)}"


def evaluate(scored: Scored, scenes: Sequence[Case], reference: torch.Tensor) -> Evaluated:
    """Adds distances to `reference` (real scenes' features) and, where layouts are known, average precision."""
    n = len(scored.rows)
    kinds: dict[str, Callable] = {"kernel_distance": KernelDistance(scored.features, reference)}
    if isinstance(scenes[0], Case):
        kinds["box_ap50"] = AveragePrecision(scenes, scored.found, (0.5,))
        kinds["box_ap"] = AveragePrecision(scenes, scored.found, THRESHOLDS)
    drawn = {name: stats.resampled(statistic, n) for name, statistic in kinds.items()}
    if n > scored.features.shape[1]:  # with fewer images the covariance is singular

        def distance(counts: np.ndarray) -> float:
            return frechet(scored.features.repeat_interleave(torch.from_numpy(counts).long(), 0), reference)

        drawn["frechet"] = stats.resampled(distance, n, draws=FRECHET_DRAWS)
    return Evaluated(scored.rows, drawn)


def summarise(scored: Scored, scenes: Sequence[Case], reference: torch.Tensor) -> dict[str, Entry]:
    """Metric -> {"mean", "lo", "hi", "n"}. reference: real scenes' features."""
    return evaluate(scored, scenes, reference).entries()


def differences(scored: Scored, baseline: Scored, scenes: Sequence[Case], reference: torch.Tensor) -> dict[str, Entry]:
    """Metric -> {"mean", "lo", "hi"} of the case minus the baseline, of which more may have been scored."""
    theirs = baseline.part([row["id"] for row in scored.rows])
    return evaluate(scored, scenes, reference).minus(evaluate(theirs, scenes, reference))


def plain(value):
    """JSON has no nan: what does not exist becomes null, and six digits are enough."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 6)
    return value
