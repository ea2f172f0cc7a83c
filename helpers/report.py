"""All reports' numbers in one file, figures/metrics.json: `python -m helpers.report`."""

import json

from helpers.files import writing
from helpers.paths import FIGURES, RESULTS

REPORTS = ("dga", "dca", "dma", "combinations", "robustness", "layout", "ilgd", "miniature")


def main() -> None:
    metrics = {name: json.loads((RESULTS / name / "metrics.json").read_text()) for name in REPORTS}
    with writing(FIGURES / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
