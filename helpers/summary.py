"""Scores of many images as means with intervals and as paired differences: the entries of metrics.json."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from helpers.metrics import stats
from helpers.metrics.distribution import KernelDistance, frechet
from helpers.metrics.layout import THRESHOLDS, AveragePrecision
from helpers.miniature.benchmark import Case
from helpers.score import Scored

Entry = dict[str, float]
FRECHET_DRAWS = 100  # each costs an eigenvalue problem; the number is informative only


def statistics(scored: Scored, scenes: Sequence[Case], reference: torch.Tensor) -> dict[str, Callable]:
    """What is no mean over images, as functions of how often each image counts: distances and, where layouts are
    known, precision."""
    kinds: dict[str, Callable] = {"kernel_distance": KernelDistance(scored.features, reference)}
    if isinstance(scenes[0], Case):
        kinds["box_ap50"] = AveragePrecision(scenes, scored.found, (0.5,))
        kinds["box_ap"] = AveragePrecision(scenes, scored.found, THRESHOLDS)
    if len(scored.features) > scored.features.shape[1]:  # with fewer images the covariance is singular
        kinds["frechet"] = lambda counts: frechet(
            scored.features.repeat_interleave(torch.from_numpy(counts).long(), 0), reference
        )
    return kinds


def names(scored: Scored) -> list[str]:
    """The metrics that every image has its own value of."""
    return [key for key in scored.rows[0] if key not in ("id", "seed")]


def summarise(scored: Scored, scenes: Sequence[Case], reference: torch.Tensor) -> dict[str, Entry]:
    """Metric -> {"mean", "lo", "hi", "n"}: 95 % bootstrap intervals over prompts. reference: real scenes' features."""
    entries = {name: stats.mean([row[name] for row in scored.rows]) for name in names(scored)}
    for name, statistic in statistics(scored, scenes, reference).items():
        entries[name] = stats.bootstrap(statistic, len(scenes), **_draws(name))
    return entries


def differences(scored: Scored, baseline: Scored, scenes: Sequence[Case], reference: torch.Tensor) -> dict[str, Entry]:
    """Metric -> {"mean", "lo", "hi"} of the case minus the baseline on the same prompts and seeds."""
    baseline = baseline.part([row["id"] for row in scored.rows])
    entries = {
        name: stats.paired_difference([row[name] for row in scored.rows], [row[name] for row in baseline.rows])
        for name in names(scored)
    }
    theirs = statistics(baseline, scenes, reference)
    for name, ours in statistics(scored, scenes, reference).items():
        entries[name] = stats.bootstrap(_minus(ours, theirs[name]), len(scenes), **_draws(name))
    return {name: {key: entry[key] for key in ("mean", "lo", "hi")} for name, entry in entries.items()}


def _minus(ours: Callable, theirs: Callable) -> Callable:
    return lambda counts: ours(counts) - theirs(counts)


def _draws(name: str) -> dict[str, int]:
    return {"draws": FRECHET_DRAWS} if name == "frechet" else {}


def plain(value):
    """JSON has no nan: what does not exist becomes null, and six digits are enough."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 6)
    return value
