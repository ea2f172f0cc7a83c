"""Says how long recomputing everything takes, from what the committed results took: `python -m helpers.estimate`."""

import json

import torch

from helpers.params import load
from helpers.paths import FIGURES

STAGE = 15  # seconds that a stage takes before and after its loop: interpreter, imports, loading, writing
SCORING = 0.05  # seconds of the judge per image


def main() -> None:
    params = load()
    path = FIGURES / "metrics.json"
    if not path.exists():
        print(f"{path.name} is not there yet, so nothing is known about how long this takes")
        return
    cases = json.loads(path.read_text())["dga"]
    drawing = sum(case["seconds"]["mean"] * case["seconds"]["n"] for case in cases.values())
    sweep = (len(params.dga.sweep.scales) + 1) * params.profile.sweep * cases["full"]["seconds"]["mean"]
    images = sum(case["seconds"]["n"] for case in cases.values())
    cores = torch.get_num_threads()
    seconds = (drawing + sweep) / cores + images * SCORING + (2 * len(cases) + 4) * STAGE
    print(
        f"recomputing {len(cases)} cases ({images} images) and the sweep takes about {seconds / 60:.0f} minutes on "
        f"{cores} CPU cores like those that made the committed results, less on a GPU; no model is trained again"
    )


if __name__ == "__main__":
    main()
