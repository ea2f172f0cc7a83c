"""Gathers what the stages made into figures/: metrics.json, tables as CSV, pictures: `python -m helpers.report`."""

import json
import shutil
from pathlib import Path

from helpers import figures
from helpers.metrics.judge import Judge
from helpers.metrics.parsing import parser_metrics
from helpers.metrics.quality import HEAD
from helpers.params import load
from helpers.paths import FIGURES, MODELS, ROOT, weights
from helpers.reports import combinations, dca, dga, dma, ilgd, layout, perception, robustness
from helpers.score import reference_features
from helpers.summary import plain

EXPERIMENTS = {
    "dga": dga,
    "dca": dca,
    "dma": dma,
    "combinations": combinations,
    "robustness": robustness,
    "layout": layout,
    "ilgd": ilgd,
}


def miniature_metrics(folder: Path) -> dict:
    """model -> metric -> number on held-out scenes: what the training notebooks measured, kept beside the weights, and
    how well the detector and the parser do, which are not trained.
    """
    parts = [json.loads(path.read_text()) for path in sorted(MODELS.glob("*/metrics.json"))]
    trained = {model: numbers for part in parts for model, numbers in part.items()}
    parser = parser_metrics(ROOT / "tests" / "everyday_captions.txt")
    quality = json.loads(HEAD.read_text())["metrics"]
    return trained | {"detector": perception.write(folder), "parser": parser, "quality": quality}


def write(folder: Path) -> None:
    params = load()
    reference = reference_features(Judge.from_pretrained(weights("judge")).eval())
    figures.use_style()
    metrics = {name: report.write(folder, params, reference) for name, report in EXPERIMENTS.items()}
    everything = plain({**metrics, "miniature": miniature_metrics(folder)})
    (folder / "metrics.json").write_text(json.dumps(everything, indent=1) + "\n")


def main() -> None:
    """Write into a new folder first, so that an error leaves the old figures as they were."""
    part = FIGURES.with_name("figures.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    write(part)
    shutil.rmtree(FIGURES, ignore_errors=True)
    part.rename(FIGURES)
    print(f"{FIGURES.name}/: " + ", ".join(sorted(path.name for path in FIGURES.iterdir())))


if __name__ == "__main__":
    main()
