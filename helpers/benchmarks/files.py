"""The files in data/: where they are, and the cases of a split."""

import json
from pathlib import Path

from helpers.paths import DATA


def stored(name: str) -> Path:
    """The path of a file in data/; FileNotFoundError with the cure when it is missing."""
    path = DATA / name
    if not path.exists():
        raise FileNotFoundError(f"{path.relative_to(DATA.parent)} is missing; fetch it with `dvc pull`")
    return path


def of_split(name: str, split: str) -> list[dict]:
    """The cases of a split in a JSON file of data/; ValueError naming the known splits."""
    splits = json.loads(stored(name).read_text())
    if split not in splits:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(splits)}")
    return splits[split]
