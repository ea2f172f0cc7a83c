"""All reports' numbers in figures/metrics.json, the main one of every case in figures/summary.json, and what they say
in figures/README.md, which is helpers/reports/results.md.j2 filled in: `python -m helpers.pipeline.report`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined, UndefinedError

from helpers.files import writing
from helpers.params import read
from helpers.paths import FIGURES, RESULTS, ROOT

MAIN = {"dga": "box_iou", "dca": "relation_acc", "dma": "drag_md", "combinations": "box_iou", "layout": "box_iou"}
TEMPLATE = ROOT / "helpers" / "reports" / "results.md.j2"
NONE = "–"  # where there is no number
DIGITS = {  # behind the point; of all other metrics 2
    "nfe": 0, "clip_score": 1, "drag_md": 1, "center_dist": 1, "background_psnr": 1, "kernel_distance": 3,
    "contrast": 3, "saturation": 3, "size_error": 3, "distance_error": 3,
}  # fmt: skip


class Block(dict):
    """Numbers or settings that know their own name. digits: how many of them are shown behind the point."""

    def __init__(self, data: Mapping[str, Any], path: str, digits: int = 2):
        self.path, self.digits = path, digits
        for name, value in data.items():
            inner = f"{path}.{name}", DIGITS.get(name, digits)
            self[name] = Block(value, *inner) if isinstance(value, Mapping) else value


class Missing(StrictUndefined):
    """What the template asks for and there is not: an UndefinedError that says what, and the cure."""

    @property
    def _undefined_message(self) -> str:
        if not isinstance(self._undefined_obj, Block):
            return super()._undefined_message
        place = self._undefined_obj.path
        cure = "correct the template"
        if place.startswith("metrics."):
            cure += f", or compute it: `dvc repro report_{place.split('.')[1]}`"
        there = ", ".join(map(str, self._undefined_obj)) or "nothing"
        return f"asks for {place}.{self._undefined_name}, but {place} has {there}: {cure}"


def reports() -> list[str]:
    """Every experiment of params.yaml, and the models of the miniature world."""
    return [*(name for name, block in read().items() if "cases" in block), "miniature"]


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """As it stands in a text: .67, -1.20, +.05; a dash for None."""
    if value is None:
        return NONE
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def percent(value: float | None, sign: bool = False) -> str:
    """30 % for .3; a dash for None."""
    return NONE if value is None else f"{number(100 * value, 0, sign)} %"


def mean(entry: Block) -> str:
    """An entry's mean with its metric's digits."""
    return number(entry["mean"], entry.digits)


def change(diff: Block, relative: bool = False) -> str:
    """A difference with its interval: +.55 (.51 to .60). relative: it is a share: +17 % (13 % to 20 %).

    A bound that is told from zero is not rounded to zero: then there are more digits.
    """
    middle, lo, hi = diff["mean"], diff["lo"], diff["hi"]
    if None in (middle, lo, hi):
        return NONE
    if relative:
        return f"{percent(middle, sign=True)} ({percent(lo)} to {percent(hi)})"
    digits = diff.digits
    while (lo > 0 or hi < 0) and float(f"{min(abs(lo), abs(hi)):.{digits}f}") == 0:
        digits += 1
    return f"{number(middle, digits, sign=True)} ({number(lo, digits)} to {number(hi, digits)})"


def verb(diff: Block, up: str = "rises", down: str = "falls", same: str = "does not change measurably") -> str:
    """The words that the interval of a difference allows; `same` where it holds zero, or does not exist."""
    lo, hi = diff["lo"], diff["hi"]
    if lo is None or hi is None:
        return same
    return up if lo > 0 else down if hi < 0 else same


def share(diff: Block, whole: Block) -> str:
    """One mean as percents of another; a dash where there is none."""
    return percent(diff["mean"] / whole["mean"]) if diff["mean"] is not None and whole["mean"] else NONE


def page(metrics: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """The text of figures/README.md. params: params.yaml, as `helpers.params.read` gives it.

    The template sees `metrics`, `params`, `profile` (the block of `profiles` that the pipeline uses), the filters
    above, and ran("dga.full", "layout.ilgd_tuned"): does params.yaml have all of these cases? ValueError names what it
    asks for in vain.
    """
    blocks = {name: block for name, block in params.items() if isinstance(block, Mapping) and "cases" in block}
    cases = {f"{name}.{case}" for name, block in blocks.items() for case in block["cases"]}
    cases |= {f"{name}.{case}_tuned" for name, block in blocks.items() for case in block.get("search", ())}
    environment = Environment(undefined=Missing, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {f.__name__: f for f in (number, percent, mean, change, verb, share)}
    settings = Block(params, "params")
    try:
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            metrics=Block(metrics, "metrics"),
            params=settings,
            profile=settings["profiles"][settings["run"]["profile"]],
            ran=lambda *names: cases.issuperset(names),
        )
    except UndefinedError as error:
        raise ValueError(f"{TEMPLATE.name} {error}") from None


def main() -> None:
    missing = [name for name in reports() if not (RESULTS / "metrics" / f"{name}.json").exists()]
    if missing:
        raise FileNotFoundError(f"no numbers of {', '.join(missing)}: run `dvc repro report_{missing[0]}`")
    metrics = {name: json.loads((RESULTS / "metrics" / f"{name}.json").read_text()) for name in reports()}
    texts = {"README.md": page(metrics, read())}
    summary = {
        name: {metric: {case: entries[metric]["mean"] for case, entries in metrics[name].items()}}
        for name, metric in MAIN.items()
    }
    for name, numbers in {"metrics": metrics, "summary": summary}.items():
        texts[f"{name}.json"] = json.dumps(numbers, indent=1) + "\n"
    for name, text in texts.items():
        with writing(FIGURES / name) as file:
            file.write(text)


if __name__ == "__main__":
    main()
