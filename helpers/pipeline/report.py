"""All reports' numbers in figures/metrics.json, and the main one of every case in figures/summary.json:
`python -m helpers.pipeline.report`.
"""

import json

from helpers.params import read
from helpers.paths import FIGURES, RESULTS

MAIN = {"dga": "box_iou", "dca": "relation_acc", "dma": "drag_md", "combinations": "box_iou", "layout": "box_iou"}


def reports() -> list[str]:
    """Every experiment of params.yaml, and the models of the miniature world."""
    return [*(name for name, block in read().items() if "cases" in block), "miniature"]


def main() -> None:
    missing = [name for name in reports() if not (RESULTS / "metrics" / f"{name}.json").exists()]
    if missing:
        raise FileNotFoundError(f"no numbers of {', '.join(missing)}: run `dvc repro report_{missing[0]}`")
    metrics = {name: json.loads((RESULTS / "metrics" / f"{name}.json").read_text()) for name in reports()}
    summary = {
        name: {metric: {case: entries[metric]["mean"] for case, entries in metrics[name].items()}}
        for name, metric in MAIN.items()
    }
    for name, numbers in {"metrics": metrics, "summary": summary}.items():
        (FIGURES / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
