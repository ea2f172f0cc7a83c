"""Sampled images and what they cost, as a folder: what the stage `sample` leaves for `score` and for explorers.

images.npz holds uint8 (n, 64, 64, 3), run.json what was sampled with which settings, trace/ a Trace of the showcase.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from helpers.files import read_folder, replace_folder
from helpers.sampling import trace
from helpers.sampling.trace import Trace

FILES = ("images.npz", "run.json", *(f"trace/{name}" for name in trace.FILES))


@dataclass
class Samples:
    """Images (n, 3, H, W) in [0, 1] of benchmark cases. rows: per image id, seed, seconds, nfe, peak_mb, eff_cfg.

    trace: of the first images, if one was asked for. Once they are loaded again: items, which benchmark they were drawn
    for (its name, split and variant), and settings, of the case.
    """

    images: torch.Tensor
    rows: list[dict]
    warnings: list[str]
    trace: Trace | None = None
    items: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)


def save(samples: Samples, folder: Path, about: dict) -> None:
    """Write images.npz, run.json and, if there is one, trace/ into `folder`, all or nothing. about: JSON data, with the
    benchmark, split and variant under "items" and the case's own values under "settings". ValueError
    names the images that are not finite: they would be black.
    """
    lost = [row for row, image in zip(samples.rows, samples.images, strict=True) if not image.isfinite().all()]
    if lost:
        named = ", ".join(f"{row['id']} (seed {row['seed']})" for row in lost)
        raise ValueError(
            f"{len(lost)} of {len(samples.rows)} pictures are not finite and none is saved: {named}; lower the "
            "strength or set its clip, and sample them again"
        )

    def write(new: Path) -> None:
        pixels = (samples.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        np.savez_compressed(new / "images.npz", images=pixels)
        (new / "run.json").write_text(
            json.dumps({**about, "warnings": samples.warnings, "rows": samples.rows}, indent=1)
        )
        if samples.trace is not None:
            samples.trace.save(new / "trace")

    replace_folder(folder, write, FILES)


def load(folder: Path) -> Samples:
    """What `save` wrote, without its trace; FileNotFoundError says how to make it."""

    def read(folder: Path) -> Samples:
        if not (folder / "run.json").exists():
            raise FileNotFoundError(f"{folder} holds no sampled images: run `dvc repro`")
        run = json.loads((folder / "run.json").read_text())
        with np.load(folder / "images.npz") as stored:
            images = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).float() / 255
        return Samples(images, run["rows"], run["warnings"], items=run["items"], settings=run["settings"])

    return read_folder(folder, read)
