"""Bootstrap intervals over prompts (Efron 1979): of a mean, of a paired difference, of any statistic of weights.

A bootstrap sample of n prompts is n counts that add up to n; a statistic is a function of these counts, so means,
average precision and kernel distances share one code. Draws are the same for every call with the same n: differences
between cases are paired, and numbers repeat exactly.
"""

from collections.abc import Callable, Sequence

import numpy as np

DRAWS = 1000
SEED = 2026


def counts(n: int, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """(draws, n) float64: how often each of n prompts occurs in each bootstrap sample."""
    if n < 1:
        raise ValueError("0 prompts have no interval: score at least one image")
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws).astype(float)


def bootstrap(statistic: Callable[[np.ndarray], float], n: int, draws: int = DRAWS) -> dict[str, float]:
    """{"mean", "lo", "hi", "n"}: the statistic of all n prompts once each and its 95 % percentile interval."""
    return interval(resampled(statistic, n, draws), n)


def resampled(statistic: Callable[[np.ndarray], float], n: int, draws: int = DRAWS) -> np.ndarray:
    """(1 + draws,): the statistic of all n prompts once each, then of every bootstrap sample."""
    return np.array([float(statistic(w)) for w in (np.ones(n), *counts(n, draws))])


def interval(values: np.ndarray, n: int) -> dict[str, float]:
    """{"mean", "lo", "hi", "n"} of what `resampled` gave, or of the difference of two such.

    The resamples' own bias is taken off: with repeats they are less varied than the prompts, which a Frechet distance
    takes for a distance.
    """
    whole, drawn = values[0], values[1:]
    lo, hi = np.nanpercentile(drawn, [2.5, 97.5]) - np.nanmedian(drawn) + whole
    return {"mean": float(whole), "lo": float(lo), "hi": float(hi), "n": n}


def mean(values: Sequence[float]) -> dict[str, float]:
    """Mean over prompts with its interval; nan (the metric does not exist for the prompt) is left out."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if not len(values):
        return {"mean": float("nan"), "lo": float("nan"), "hi": float("nan"), "n": 0}
    drawn = counts(len(values)) @ values / len(values)
    lo, hi = np.percentile(drawn, [2.5, 97.5])
    return {"mean": float(values.mean()), "lo": float(lo), "hi": float(hi), "n": len(values)}


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Mean of values - baseline over the same prompts in the same order; prompts where one is nan are left out."""
    values, baseline = np.asarray(values, float), np.asarray(baseline, float)
    if values.shape != baseline.shape:
        raise ValueError(
            f"{len(values)} values cannot be paired with {len(baseline)} of the baseline: score the same prompts"
        )
    return mean(values - baseline)
