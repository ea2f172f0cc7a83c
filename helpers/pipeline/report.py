"""All reports' numbers in figures/metrics.json, the main one of every case in figures/summary.json, and what they say
in figures/README.md, which is helpers/reports/results.md.j2 filled in: `python -m helpers.pipeline.report`.
"""

import json
import re
import traceback
from collections.abc import Mapping
from functools import partial
from numbers import Real
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined, UndefinedError

from helpers.files import writing
from helpers.params import read
from helpers.paths import FIGURES, RESULTS, ROOT

MAIN = {
    "dga": "box_iou", "dca": "relation_acc", "dma": "drag_md", "combinations": "box_iou", "layout": "box_iou",
    "free": "box_iou", "sbpc": "recall", "guided_factors": "box_iou",
}  # fmt: skip
TEMPLATE = ROOT / "helpers" / "reports" / "results.md.j2"
NONE = "–"  # where there is no number
DIGITS = {  # behind the point; of all other metrics 2
    "nfe": 0, "seconds": 2, "clip_score": 1, "drag_md": 1, "center_dist": 1, "background_psnr": 1, "kernel_distance": 3,
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
    return [*(name for name, block in read().items() if isinstance(block, Mapping) and "cases" in block), "miniature"]


def _parts(value: Any, asks: str, *names: str) -> list:
    """What an entry has under these names; ValueError, or UndefinedError, for anything else that a filter is given."""
    what = _what(value)
    missing = [name for name in names if name not in value] if isinstance(value, Mapping) else names
    if missing:
        raise ValueError(f"`{asks}` is given {what}, which has no {', '.join(missing)}: give it {' and '.join(names)}")
    return [value[name] for name in names]


def _what(value: Any) -> str:
    """What a filter is given, in words; UndefinedError where it is nothing."""
    if isinstance(value, Undefined):
        str(value)
    return value.path if isinstance(value, Block) else f"{value!r:.40}"


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """As it stands in a text: .67, -1.20, +.05; a dash for None."""
    if value is None:
        return NONE
    what = _what(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"`number` is given {what}, which is none: name a number in it")
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def percent(value: float | None, sign: bool = False) -> str:
    """30 % for .3; a dash for None."""
    if value is None:
        return NONE
    number(value)  # or its error: a text times 100 is a longer text
    return f"{number(100 * value, 0, sign)} %"


def mean(entry: Block) -> str:
    """An entry's mean with its metric's digits."""
    (middle,) = _parts(entry, "mean", "mean")
    return number(middle, entry.digits)


def change(diff: Block, relative: bool = False) -> str:
    """A difference with its interval: +.55 (.51 to .60). relative: it is a share: +17 % (13 % to 20 %).

    A bound that is told from zero is not rounded to zero: then there are more digits.
    """
    middle, lo, hi = _parts(diff, "change", "mean", "lo", "hi")
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
    lo, hi = _parts(diff, "verb", "lo", "hi")
    if lo is None or hi is None:
        return same
    return up if lo > 0 else down if hi < 0 else same


def share(diff: Block, whole: Block) -> str:
    """One mean as percents of another; a dash where there is none."""
    (part,), (all_of_it,) = _parts(diff, "share", "mean"), _parts(whole, "share", "mean")
    return percent(part / all_of_it) if part is not None and all_of_it else NONE


def _ran(cases: Mapping[str, set[str]], *names: str) -> bool:
    """Does params.yaml have all of these cases? ValueError for the name of no experiment: as a case may be left out, a
    wrong one would drop what is said of it without a word."""
    for name in names:
        if name.partition(".")[0] not in cases or "." not in name:
            known = ", ".join(cases)
            raise ValueError(f"ran({name!r}) names no case of an experiment: use <experiment>.<case>, of {known}")
    return all(name.partition(".")[2] in cases[name.partition(".")[0]] for name in names)


def _template() -> Template:
    """The template, compiled; ValueError for a file that is none."""
    place = TEMPLATE.relative_to(ROOT) if TEMPLATE.is_relative_to(ROOT) else TEMPLATE
    environment = Environment(undefined=Missing, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {f.__name__: f for f in (number, percent, mean, change, verb, share)}
    try:
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{place} is missing: run `git checkout {place}`") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    except TemplateSyntaxError as error:  # unknown filters among them
        raise ValueError(f"{place}, line {error.lineno}: {error.message.rstrip('.')}: correct the template") from None


def page(metrics: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """The text of figures/README.md. params: params.yaml, as `helpers.params.read` gives it.

    The template sees `metrics`, `params`, `profile` (the block of `profiles` that the pipeline uses), the filters
    above, and ran("dga.full", "layout.ilgd_tuned"): does params.yaml have all of these cases? ValueError names what it
    asks for in vain, and what is wrong with it.
    """
    blocks = {name: block for name, block in params.items() if isinstance(block, Mapping) and "cases" in block}
    cases = {
        name: {*(block["cases"] or ()), *(f"{case}_tuned" for case in block.get("search", ()))}
        for name, block in blocks.items()
    }
    settings = Block(params, "params")
    given = {
        "metrics": Block(metrics, "metrics"),
        "params": settings,
        "profile": settings["profiles"][settings["run"]["profile"]],
        "ran": partial(_ran, cases),
    }
    template = _template()
    try:
        return template.render(given)
    except UndefinedError as error:
        raise ValueError(f"{TEMPLATE.name} {error}") from None
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
        raise ValueError(f"{TEMPLATE.name}{f', line {lines[-1]}' if lines else ''}: {error}") from None


def _numbers(name: str) -> dict[str, dict]:
    """What a report has written; ValueError for a file that is damaged."""
    path = RESULTS / "metrics" / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): run `dvc repro report_{name}`") from None
    if not isinstance(found, dict) or not all(isinstance(entries, dict) for entries in found.values()):
        raise ValueError(f"{path} holds {found!r:.40}, not metrics of cases: run `dvc repro report_{name}`")
    return found


def _summary(metrics: Mapping[str, Any]) -> dict[str, dict]:
    """The main metric's mean of every case."""
    summary: dict[str, dict] = {}
    for name, metric in MAIN.items():
        for case, entries in metrics.get(name, {}).items():
            if not isinstance(entries.get(metric), Mapping) or "mean" not in entries[metric]:
                there = ", ".join(entries) or "nothing"
                raise ValueError(
                    f"the metrics of {name} lack the mean of {metric} of the case {case!r}, which has {there}: run "
                    f"`dvc repro report_{name}`, or name another one in MAIN of helpers/pipeline/report.py"
                )
            summary.setdefault(name, {metric: {}})[metric][case] = entries[metric]["mean"]
    return summary


def main() -> None:
    missing = [name for name in reports() if not (RESULTS / "metrics" / f"{name}.json").exists()]
    if missing:
        raise FileNotFoundError(f"no numbers of {', '.join(missing)}: run `dvc repro report_{missing[0]}`")
    metrics = {name: _numbers(name) for name in reports()}
    texts, summary = {"README.md": page(metrics, read())}, _summary(metrics)
    for name, numbers in {"metrics": metrics, "summary": summary}.items():
        texts[f"{name}.json"] = json.dumps(numbers, indent=1) + "\n"
    for name, text in texts.items():
        with writing(FIGURES / name) as file:
            file.write(text)


if __name__ == "__main__":
    main()
