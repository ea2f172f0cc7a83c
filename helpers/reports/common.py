"""What all reports share: numbers with intervals, paired differences, tables, and where all that is written."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers.benchmarks.base import Item
from helpers.figures.style import use_style
from helpers.files import remove_folder, writing
from helpers.judges.loading import load_judge
from helpers.judges.recogniser import SIDE
from helpers.params import Params
from helpers.paths import FIGURES, RESULTS
from helpers.pipeline.score import Scored, load_score, reference_features
from helpers.pipeline.summary import Evaluated, evaluate, plain
from helpers.sampling.trace import Trace


def publish(name: str, write: Callable[[Path], dict]) -> None:
    """Pictures and tables to figures/, what `write` returns to results/metrics/<name>.json.

    All of it is made in a new folder first, so that an error leaves the old figures as they were.
    """
    use_style()
    FIGURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".figures.{name}.", dir=FIGURES.parent) as folder:
        numbers = json.dumps(plain(write(Path(folder))), indent=1) + "\n"
        for path in sorted(Path(folder).iterdir()):
            path.replace(FIGURES / path.name)
            print(f"figures/{path.name}")
    with writing(RESULTS / "metrics" / f"{name}.json") as file:
        file.write(numbers)


def rows_of(experiment: str, cases: Iterable[str]) -> dict[str, Path]:
    """case -> the folder results/<experiment>/score/<case>. FileNotFoundError names the cases that have none: a report
    is of all or is not made. Folders of cases that are no more are deleted; ValueError if one holds
    anything else."""
    place, cases = RESULTS / experiment / "score", list(cases)
    missing = [case for case in cases if not (place / case).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"the report of {experiment!r} needs every case of params.yaml, but {place} has no rows of "
            f"{', '.join(missing)}: run `dvc repro report_{experiment}`, or `dvc pull` what was computed elsewhere"
        )
    for folder in place.iterdir():
        if folder.is_dir() and folder.name not in cases:
            remove_folder(folder)
            print(f"{folder.name} is no case of {experiment!r} any more: its rows are deleted")
    return {case: place / case for case in cases}


def scores(folders: Mapping[str, Path]) -> dict[str, Scored]:
    """case -> its scores. The objects' masks were not stored: what comes in their place has only the pictures' size,
    which average precision of boxes asks for."""
    empty = np.zeros((SIDE, SIDE), bool)
    scored = {case: load_score(folder) for case, folder in folders.items()}
    for of in scored.values():
        of.found = [[replace(thing, mask=empty) for thing in things] for things in of.found]
    return scored


def showcase(folder: Path) -> Trace:
    """The Trace of the first images of a case: finals and curves of all, frames and maps of one (`whole`)."""
    return Trace.load(folder / "showcase")


def real() -> torch.Tensor:
    """The judge's features of real scenes, with which distances compare."""
    return reference_features(load_judge("judge"))


def experiment_metrics(
    scored: Mapping[str, Scored],
    scenes: Mapping[str, Sequence[Item]],
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
