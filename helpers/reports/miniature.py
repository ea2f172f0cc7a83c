"""How good the models of the miniature world are, on held-out scenes."""

import json
from pathlib import Path

from helpers.judges.quality import HEAD
from helpers.paths import MODELS, ROOT
from helpers.reports import perception
from helpers.reports.common import publish
from helpers.training.parsing import parser_metrics


def write(folder: Path) -> dict:
    """model -> metric -> number: what the training notebooks measured, kept beside the weights, and how well the
    detector and the parser do, which are not trained. Table and picture of what guides see into `folder`."""
    parts = [json.loads(path.read_text()) for path in sorted(MODELS.glob("*/metrics.json"))]
    trained = {model: numbers for part in parts for model, numbers in part.items()}
    parser = parser_metrics(ROOT / "tests" / "everyday_captions.txt")
    quality = json.loads(HEAD.read_text())["metrics"]
    return trained | {"detector": perception.write(folder), "parser": parser, "quality": quality}


if __name__ == "__main__":
    publish("miniature", write)
