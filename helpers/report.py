"""All reports' numbers in one file, figures/metrics.json: `python -m helpers.report`."""

import json

from helpers.paths import FIGURES, RESULTS

REPORTS = ("dga", "dca", "dma", "combinations", "robustness", "layout", "ilgd", "miniature")


def main() -> None:
    metrics = {name: json.loads((RESULTS / name / "metrics.json").read_text()) for name in REPORTS}
    (FIGURES / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
