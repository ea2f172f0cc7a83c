"""Says how long recomputing everything takes, from what the committed results took: `python -m helpers.estimate`."""

import json

import torch

from helpers.params import load
from helpers.paths import FIGURES

STAGE = 15  # seconds that a stage takes before and after its loop: interpreter, imports, loading, writing
SCORING = 0.05  # seconds of the judge per image
PERCEPTION = 300  # seconds to measure what the guides see


def seconds_of(found: dict) -> list[dict]:
    """Every entry "seconds" of nested metrics: of an experiment's cases, or of its curves' values."""
    if "seconds" in found:
        return [found["seconds"]]
    return [entry for inner in found.values() for entry in seconds_of(inner)]


def main() -> None:
    params = load()
    path = FIGURES / "metrics.json"
    if not path.exists():
        print(f"{path.name} is not there yet, so nothing is known about how long this takes")
        return
    metrics = json.loads(path.read_text())
    experiments = {name: metrics[name] for name in type(params).model_fields if name in metrics}
    cases = seconds_of(experiments)
    drawing = sum(seconds["mean"] * seconds["n"] for seconds in cases)
    images = sum(seconds["n"] for seconds in cases)
    stages = 2 * sum(map(len, experiments.values())) + 4
    sweeps = {name: getattr(params, name).sweep for name in experiments if hasattr(getattr(params, name), "sweep")}
    sweep = sum(
        (len(swept.scales) + 1) * params.profile.sweep * experiments[name]["full"]["seconds"]["mean"]
        for name, swept in sweeps.items()
    )
    cores = torch.get_num_threads()
    seconds = (drawing + sweep) / cores + images * SCORING + stages * STAGE + PERCEPTION
    print(
        f"recomputing {images} images of {stages} stages and the sweeps takes about {seconds / 60:.0f} minutes on "
        f"{cores} CPU cores like those that made the committed results, less on a GPU; no model is trained again"
    )


if __name__ == "__main__":
    main()
