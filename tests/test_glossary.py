"""The glossary explains the metrics that there are, and no others."""

import json
import re

from helpers.figures.words import LESS_IS_BETTER, NEITHER
from helpers.paths import ROOT

OTHERS = {"miniature", "robustness", "ilgd"}  # keyed by model or by setting, not by case


def entries() -> dict[str, str]:
    """metric -> the arrow of its line."""
    text = (ROOT / "notebooks" / "GLOSSARY.md").read_text()
    return dict(re.findall(r"^\| `(\w+)` \|.+\| (\S+) \|$", text, re.MULTILINE))


def test_every_metric_has_a_sentence_and_every_sentence_a_metric():
    experiments = json.loads((ROOT / "figures" / "metrics.json").read_text())
    known = {name for key, cases in experiments.items() if key not in OTHERS for row in cases.values() for name in row}
    assert set(entries()) == known


def test_directions_are_those_of_the_figures():
    arrows = entries()
    assert all(arrows[name] == "↓" for name in LESS_IS_BETTER)
    assert all(arrows[name] == "–" for name in NEITHER)
    assert {name for name, arrow in arrows.items() if arrow == "↓"} - LESS_IS_BETTER <= {"off_centre", "peak_mb"}
