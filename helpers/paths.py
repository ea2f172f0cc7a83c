"""Where things lie in the repository, whatever the working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
DATA = ROOT / "data"
FIGURES = ROOT / "figures"
RESULTS = ROOT / "results"
CHECKPOINTS = ROOT / "checkpoints"


def weights(name: str) -> Path:
    """The folder models/<name> of a trained miniature model; FileNotFoundError with the cure when it is missing."""
    folder = MODELS / name
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(f"the weights of {name!r} are not in {folder}: run `dvc pull models/{name}`")
    return folder
