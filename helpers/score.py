"""The judges' verdict on drawn images, kept per image: `python -m helpers.score dga full` scores one case.

One folder per case: score.json (a row of numbers and the recognised objects per image) and features.npy.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from helpers.conditions import decode_mask, encode_mask
from helpers.drawn import Drawn, load
from helpers.metrics import appearance, concepts, layout
from helpers.metrics.clip_score import clip_score
from helpers.metrics.judge import Found, Judge
from helpers.miniature.benchmark import Case, load_captioned, load_scenes
from helpers.paths import RESULTS, weights
from helpers.perception.similarity import Similarity


@dataclass
class Scored:
    """rows: per image id, metrics and costs. found: the recognised objects. features: (n, 64) of the judge."""

    rows: list[dict]
    found: list[list[Found]]
    features: torch.Tensor

    def part(self, ids: Sequence[str]) -> "Scored":
        """The images of these benchmark cases, in this order; KeyError when one was not scored."""
        place = {row["id"]: k for k, row in enumerate(self.rows)}
        order = [place[name] for name in ids]
        return Scored([self.rows[k] for k in order], [self.found[k] for k in order], self.features[order])


def judge_images(drawn: Drawn, scenes: Sequence[Case], judge: Judge, clip: Similarity | None = None) -> Scored:
    """Score images against the benchmark cases that they were drawn for, in the same order. clip: adds clip_score."""
    found, backgrounds = judge.recognise(drawn.images), judge.background(drawn.images)
    looks = {"contrast": appearance.contrast(drawn.images), "saturation": appearance.saturation(drawn.images)}
    rows = []
    for k, (scene, row) in enumerate(zip(scenes, drawn.rows, strict=True)):
        if scene.id != row["id"]:
            raise ValueError(f"image {k} was drawn for case {row['id']!r}, not for {scene.id!r}: keep their order")
        verdict = layout.score(scene, found[k], backgrounds[k]) | concepts.score(scene, found[k])
        rows.append({**row, **verdict, **{name: float(values[k]) for name, values in looks.items()}})
    if clip:
        for row, fit in zip(rows, clip_score(clip, drawn.images, [scene.prompt for scene in scenes])):
            row["clip_score"] = float(fit)
    return Scored(rows, found, judge.features(drawn.images))


def save(scored: Scored, folder: Path) -> None:
    """Write score.json and features.npy into `folder`, all or nothing."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    found = [[asdict(f) | {"mask": encode_mask(f.mask)} for f in objects] for objects in scored.found]
    (part / "score.json").write_text(json.dumps({"rows": scored.rows, "found": found}, indent=1))
    np.save(part / "features.npy", scored.features.numpy())
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load_score(folder: Path) -> Scored:
    """What `save` wrote; FileNotFoundError says how to make it."""
    if not (folder / "score.json").exists():
        raise FileNotFoundError(f"{folder} holds no scores: run `dvc repro`")
    stored = json.loads((folder / "score.json").read_text())
    found = [
        [Found(**f | {"box": tuple(f["box"]), "mask": decode_mask(f["mask"])}) for f in objects]
        for objects in stored["found"]
    ]
    return Scored(stored["rows"], found, torch.from_numpy(np.load(folder / "features.npy")))


def reference_features(judge: Judge) -> torch.Tensor:
    """(1000, 64): the judge's features of the held-out scenes, what distances are measured to."""
    images = torch.from_numpy(load_scenes()[0]["images"]).permute(0, 3, 1, 2).float() / 255
    return judge.features(images)


def main(experiment: str, case: str) -> None:
    drawn = load(RESULTS / experiment / "sample" / case)
    scenes = load_captioned(drawn.settings.get("split", "test"), drawn.settings.get("caption", "short"))
    judge, clip = Judge.from_pretrained(weights("judge")).eval(), Similarity.load(weights("judge-clip"))
    scored = judge_images(drawn, scenes[: len(drawn.rows)], judge, clip)
    save(scored, RESULTS / experiment / "score" / case)
    shown = {name: np.nanmean([row[name] for row in scored.rows]) for name in ("recall", "box_iou", "clip_score")}
    print(f"{case}: {len(scored.rows)} images, " + ", ".join(f"{name} {value:.3f}" for name, value in shown.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
