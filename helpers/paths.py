"""Where things lie in the repository, whatever the working directory."""

import hashlib
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
DATA = ROOT / "data"
FIGURES = ROOT / "figures"
RESULTS = ROOT / "results"
CHECKPOINTS = ROOT / "checkpoints"
LOCK = ROOT / "dvc.lock"

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth")
IGNORED = {"__pycache__", ".ipynb_checkpoints"}  # as in .dvcignore


def weights(name: str) -> Path:
    """The folder models/<name> of a trained miniature model, with the weights that dvc.lock records.

    ValueError for a name that is none, with the known ones. FileNotFoundError with the cure when the folder is missing,
    holds no weights or holds others than recorded. A model that dvc.lock does not name is taken as it is.
    """
    recorded = _recorded()
    there = {path.name for path in MODELS.iterdir() if path.is_dir()} if MODELS.is_dir() else set()
    if name not in there | recorded.keys():
        known = ", ".join(sorted(there | recorded.keys()))
        raise ValueError(f"there is no model {name!r} in models/: use one of {known}")
    folder, pull = MODELS / name, f"run `dvc pull models/{name}"
    if not any(True for kind in WEIGHT_FILES for _ in folder.rglob(kind)):
        raise FileNotFoundError(f"the weights of {name!r} are not in {folder}: {pull}`")
    if name in recorded and recorded[name] != _checksum(folder):
        raise FileNotFoundError(
            f"{folder} is not the model that dvc.lock records (a file is missing, damaged or of another version): "
            f"{pull} --force`; if you have trained it anew, `dvc commit train_{name.replace('-', '_')}` keeps yours"
        )
    return folder


def _recorded() -> dict[str, str]:
    """name -> checksum of every model that a stage made, by dvc.lock; read as text, because YAML takes seconds."""
    text = LOCK.read_text() if LOCK.exists() else ""
    made = "".join(re.findall(r"^    outs:\n((?:    [- ] .*\n)+)", text, re.MULTILINE))
    return dict(re.findall(r"- path: models/([^/\n]+)\n      hash: md5\n      md5: (\w+)\.dir\n", made))


def _checksum(folder: Path) -> str:
    """The MD5 that DVC gives a folder: of the JSON of its files' paths and MD5s."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = [file for file in files if not IGNORED & set(Path(file).parts)]
    entries = [{"md5": hashlib.md5((folder / file).read_bytes()).hexdigest(), "relpath": file} for file in kept]
    return hashlib.md5(json.dumps(entries).encode()).hexdigest()
