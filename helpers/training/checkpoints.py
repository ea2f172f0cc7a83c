"""Where a training run and its weights lie, and how weights are published."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from helpers.files import replace_folder
from helpers.paths import CHECKPOINTS, MODELS


def places(model: str, profile: str) -> tuple[Path, Path]:
    """(folder of the run's checkpoints, folder of the weights). A smoke run uses a temporary folder for both."""
    if profile == "smoke":
        scratch = Path(tempfile.mkdtemp(prefix=f"{model}-"))
        return scratch / "checkpoints", scratch / "models" / model
    return CHECKPOINTS / model, MODELS / model


def publish(out: Path, save: Callable[[Path], object], numbers: dict[str, dict[str, float]]) -> None:
    """Replace the weights in `out`, all or nothing. save(folder) writes them; numbers: {model: {metric: value}}."""
    rounded = {model: {name: round(value, 4) for name, value in row.items()} for model, row in numbers.items()}

    def write(new: Path) -> None:
        save(new)
        (new / "metrics.json").write_text(json.dumps(rounded, indent=1) + "\n")

    replace_folder(out, write, ["training.ipynb"])  # `make train` puts it there
