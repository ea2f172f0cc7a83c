"""Score rows of the cases whose results are here: which there are, their metrics, and differences to a baseline."""

import math
from dataclasses import dataclass
from pathlib import Path

from helpers.paths import RESULTS
from helpers.pipeline.score import Scored

SHOWN = (
    "box_iou", "recall", "attribute_acc", "relation_acc", "drag_md", "center_dist", "edit_fidelity", "clip_score",
    "mask_iou", "background_psnr",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One picture's numbers: its place in the case, a metric, and the difference to the baseline's picture of the same
    item, NaN where there is none."""

    place: int
    id: str
    value: float
    change: float


def with_rows(results: Path = RESULTS) -> tuple[dict[str, list[str]], list[str]]:
    """experiment -> its cases that have rows; and the experiments that keep means only. FileNotFoundError where no case
    has any."""
    folders = sorted(results.glob("*/score"))
    found = {of.parent.name: sorted(path.parent.name for path in of.glob("*/score.npz")) for of in folders}
    if not any(found.values()):
        raise FileNotFoundError(f"{results} holds no scores: run `dvc pull --allow-missing`, or `make repro`")
    return {name: cases for name, cases in found.items() if cases}, [name for name in found if not found[name]]


def rows(scored: Scored, baseline: Scored | None, name: str) -> list[Row]:
    """Every picture with its value of a metric; those of which it does not exist (NaN) are left out."""
    before = {row["id"]: row.get(name, math.nan) for row in baseline.rows} if baseline else {}
    found = [
        Row(place, row["id"], row[name], row[name] - before.get(row["id"], math.nan))
        for place, row in enumerate(scored.rows)
    ]
    return [row for row in found if not math.isnan(row.value)]


def metrics(scored: Scored) -> list[str]:
    """What can be sorted by: the numbers of a row that differ between pictures, those that are SHOWN first."""
    numbers = [name for name, value in scored.rows[0].items() if isinstance(value, float | int) and name != "seed"]
    values = {name: {row[name] for row in scored.rows if not math.isnan(row[name])} for name in numbers}
    names = [name for name in numbers if len(values[name]) > 1] or numbers
    return [name for name in SHOWN if name in names] + [name for name in names if name not in SHOWN]


def number(text: str, otherwise: float) -> float:
    """A limit as it is typed; ValueError for what is none."""
    if not text.strip():
        return otherwise
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{text!r} is no number: write one such as 0.5, or nothing")
    return value
