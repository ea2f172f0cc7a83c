"""What the training notebooks share: where a run and its weights lie, held-out scenes, publishing of weights."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from helpers.conditions import Layout, Region, encode_mask
from helpers.files import replace_folder
from helpers.miniature.benchmark import Case, Named, load_scenes, scene_of
from helpers.miniature.world import Scene, is_held_out, mask_box
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


def held_out(n: int) -> tuple[list[Scene], torch.Tensor]:
    """The first n held-out scenes and their images (n, 3, 64, 64) in [0, 1]."""
    arrays, _ = load_scenes()
    images = torch.from_numpy(arrays["images"][:n]).permute(0, 3, 1, 2).float() / 255
    return [scene_of(arrays, i) for i in range(len(images))], images


def caption_cases(n: int) -> list[Case]:
    """n held-out scenes as benchmark cases; prompts are short captions, in every fourth block of four the long ones.

    The order takes scenes from everywhere in the file, so one in five shows a composition that training held out.
    """
    arrays, captions = load_scenes()
    cases = []
    for k in range(n):
        i = (k // 4 * 2 % 249) * 4 + k % 4
        scene, caption = scene_of(arrays, i), captions[i]["long" if k // 4 % 4 == 3 else "short"]
        first = {p["thing"]: p for p in reversed(caption["phrases"])}  # where each object is named first
        regions, things = [], []
        for thing in sorted(first, key=lambda t: first[t]["start"]):
            mask, phrase, named = arrays["visible"][i, thing], first[thing], scene.things[thing]
            box = tuple(v / 64 for v in mask_box(mask))
            regions.append(Region(phrase=phrase["text"], start=phrase["start"], box=box, mask=encode_mask(mask)))
            things.append(Named(kind=named.kind, color=named.color, pattern=named.pattern, size=named.size))
        cases.append(
            Case(
                id=f"scene-{i:03d}",
                seed=500_000 + i,
                prompt=caption["text"],
                seen=not is_held_out(scene),
                background=scene.background,
                layout=Layout(prompt=caption["text"], regions=tuple(regions)),
                things=tuple(things),
            )
        )
    return cases
