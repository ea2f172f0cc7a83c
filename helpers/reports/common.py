"""What all experiments' reports share: numbers with intervals, paired differences, tables."""

from collections.abc import Mapping, Sequence

import pandas as pd

from helpers.miniature.benchmark import Case
from helpers.params import Params
from helpers.score import Scored
from helpers.summary import differences, summarise


def experiment_metrics(
    scored: Mapping[str, Scored],
    scenes: Mapping[str, Sequence[Case]],
    baselines: Mapping[str, Mapping[str, str]],
    reference,
) -> dict:
    """case -> metric -> {"mean", "lo", "hi", "n", and each key of `baselines`}.

    scenes: the benchmark cases of each case's split, from the first on. baselines: key -> case -> the case that it is
    compared with, such as {"diff": {"full": "none"}}: {"mean", "lo", "hi"} of the paired differences, on the benchmark
    cases that both have. reference: real scenes' features.
    """
    metrics = {}
    for case, found in scored.items():
        metrics[case] = summarise(found, scenes[case][: len(found.rows)], reference)
        for key, of in baselines.items():
            if of[case] in scored:
                theirs = scored[of[case]]
                shared = scenes[case][: min(len(found.rows), len(theirs.rows))]
                part = found.part([scene.id for scene in shared])
                for name, diff in differences(part, theirs, shared, reference).items():
                    metrics[case][name][key] = diff
    return metrics


def table(metrics: Mapping, baselines: Sequence[str]) -> pd.DataFrame:
    """One line per case and metric."""
    lines = [
        {"case": case, "metric": name, **{key: entry[key] for key in ("mean", "lo", "hi", "n")}}
        | {f"{diff}_{key}": value for diff in baselines for key, value in entry.get(diff, {}).items()}
        for case, entries in metrics.items()
        for name, entry in entries.items()
    ]
    return pd.DataFrame(lines)


def strengths(sweep: Mapping) -> pd.DataFrame:
    """One line per strength: means of all metrics."""
    lines = [
        {"scale": float(scale), **{name: e["mean"] for name, e in found.items()}} for scale, found in sweep.items()
    ]
    return pd.DataFrame(lines).round(6)


def about(params: Params) -> str:
    """What stands above every figure."""
    return f"{params.sampling.backbone}, {params.profile.steps} DDIM steps, CFG {params.sampling.cfg_scale:g}"
