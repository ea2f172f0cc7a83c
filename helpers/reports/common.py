"""What all reports share: numbers with intervals, paired differences, tables, and where all that is written."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
import torch

from helpers import figures
from helpers.files import writing
from helpers.metrics.judge import Judge
from helpers.miniature.benchmark import Case
from helpers.params import Params
from helpers.paths import FIGURES, RESULTS, weights
from helpers.score import Scored, reference_features
from helpers.summary import Evaluated, evaluate, plain


def publish(name: str, write: Callable[[Path], dict]) -> None:
    """Pictures and tables to figures/, what `write` returns to results/<name>/metrics.json.

    All of it is made in a new folder first, so that an error leaves the old figures as they were.
    """
    figures.use_style()
    FIGURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".figures.{name}.", dir=FIGURES.parent) as folder:
        numbers = json.dumps(plain(write(Path(folder))), indent=1) + "\n"
        for path in sorted(Path(folder).iterdir()):
            path.replace(FIGURES / path.name)
            print(f"figures/{path.name}")
    with writing(RESULTS / name / "metrics.json") as file:
        file.write(numbers)


def real() -> torch.Tensor:
    """The judge's features of real scenes, with which distances compare."""
    return reference_features(Judge.from_pretrained(weights("judge")).eval())


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

    @cache
    def first(case: str, n: int) -> Evaluated:
        chosen = scenes[case][:n]
        return evaluate(scored[case].part([scene.id for scene in chosen]), chosen, reference)

    metrics = {}
    for case, found in scored.items():
        metrics[case] = first(case, len(found.rows)).entries()
        for key, of in baselines.items():
            if of.get(case) in scored:
                shared = min(len(found.rows), len(scored[of[case]].rows))
                for name, diff in first(case, shared).minus(first(of[case], shared)).items():
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
