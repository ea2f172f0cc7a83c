"""The judges' verdict on drawn images, kept per image: `python -m helpers.score dga full` scores one case.

One folder per case: score.json (a row of numbers and the recognised objects per image) and features.npy.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from helpers.conditions import decode_mask, encode_mask
from helpers.drawn import Drawn, load
from helpers.files import output, read_folder, replace_folder
from helpers.metrics import appearance, concepts, drag, layout
from helpers.metrics.clip_score import clip_score
from helpers.metrics.judge import Found, Judge
from helpers.metrics.quality import Quality
from helpers.miniature.benchmark import Case, load_captioned, load_scenes
from helpers.miniature.combined import load_combined
from helpers.miniature.drags import Case as Drag
from helpers.miniature.drags import load_drags
from helpers.paths import RESULTS, weights
from helpers.perception.similarity import Similarity

FILES = ("score.json", "features.npy")
SHOWN = ("recall", "box_iou", "clip_score", "drag_md", "edit_fidelity")  # printed by the stage
OF_SOURCE = ("drag_md", "image_fidelity", "edit_fidelity", "background_psnr")


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
    check(drawn, scenes)
    found, backgrounds = judge.recognise(drawn.images), judge.background(drawn.images)
    rows = [
        layout.score(scene, objects, background) | concepts.score(scene, objects)
        for scene, objects, background in zip(scenes, found, backgrounds, strict=True)
    ]
    if clip:
        for row, fit in zip(rows, clip_score(clip, drawn.images, [scene.prompt for scene in scenes])):
            row["clip_score"] = float(fit)
    return _scored(drawn, rows, found, judge)


def judge_drags(drawn: Drawn, cases: Sequence[Drag], judge: Judge) -> Scored:
    """Score edited pictures against the drags that they were drawn for, in the same order."""
    check(drawn, cases)
    return _scored(drawn, drag.score(cases, drawn.images, judge), judge.recognise(drawn.images), judge)


def check(drawn: Drawn, cases: Sequence) -> None:
    """ValueError unless every image was drawn for the case at its place."""
    for k, (case, row) in enumerate(zip(cases, drawn.rows, strict=True)):
        if case.id != row["id"]:
            raise ValueError(f"image {k} was drawn for case {row['id']!r}, not for {case.id!r}: keep their order")


def _scored(drawn: Drawn, verdicts: Sequence[dict], found: list[list[Found]], judge: Judge) -> Scored:
    looks = {"contrast": appearance.contrast(drawn.images), "saturation": appearance.saturation(drawn.images)}
    rows = [
        row | verdict | {name: float(values[k]) for name, values in looks.items()}
        for k, (row, verdict) in enumerate(zip(drawn.rows, verdicts, strict=True))
    ]
    return Scored(rows, found, judge.features(drawn.images))


def save(scored: Scored, folder: Path) -> None:
    """Write score.json and features.npy into `folder`, all or nothing."""

    def write(new: Path) -> None:
        found = [[asdict(f) | {"mask": encode_mask(f.mask)} for f in objects] for objects in scored.found]
        (new / "score.json").write_text(json.dumps({"rows": scored.rows, "found": found}, indent=1))
        np.save(new / "features.npy", scored.features.numpy())

    replace_folder(folder, write, FILES)


def load_score(folder: Path) -> Scored:
    """What `save` wrote; FileNotFoundError says how to make it."""

    def read(folder: Path) -> Scored:
        if not (folder / "score.json").exists():
            raise FileNotFoundError(f"{folder} holds no scores: run `dvc repro`")
        stored = json.loads((folder / "score.json").read_text())
        found = [
            [Found(**f | {"box": tuple(f["box"]), "mask": decode_mask(f["mask"])}) for f in objects]
            for objects in stored["found"]
        ]
        return Scored(stored["rows"], found, torch.from_numpy(np.load(folder / "features.npy")))

    return read_folder(folder, read)


def reference_features(judge: Judge) -> torch.Tensor:
    """(1000, 64): the judge's features of the held-out scenes, what distances are measured to."""
    images = torch.from_numpy(load_scenes()[0]["images"]).permute(0, 3, 1, 2).float() / 255
    return judge.features(images)


def of_prompts(drawn: Drawn, judge: Judge) -> Scored:
    """Images of benchmark scenes; the settings that drew them say which split and whose words."""
    scenes = load_captioned(drawn.settings.get("split", "test"), drawn.settings.get("caption", "short"))
    return judge_images(drawn, scenes[: len(drawn.rows)], judge, Similarity.load(weights("judge-clip")))


def of_layouts(drawn: Drawn, judge: Judge) -> Scored:
    """Images of benchmark scenes, with clip_iqa, their quality."""
    scored = of_prompts(drawn, judge)
    quality = Quality.load(Similarity.load(weights("judge-clip")))(drawn.images)
    rows = [row | {"clip_iqa": float(p)} for row, p in zip(scored.rows, quality, strict=True)]
    return Scored(rows, scored.found, scored.features)


def of_drags(drawn: Drawn, judge: Judge) -> Scored:
    """Edited pictures; the settings say whether the sources were rendered or drawn."""
    return judge_drags(drawn, load_drags("test", drawn.settings["source"])[: len(drawn.rows)], judge)


def of_combinations(drawn: Drawn, judge: Judge) -> Scored:
    """Pictures that a prompt, a layout and a drag ask for: every number of both, but what compares with a source only
    where the picture was made of one."""
    cases = load_combined("test")[: len(drawn.rows)]
    asked = judge_images(drawn, [case.scene for case in cases], judge, Similarity.load(weights("judge-clip")))
    dragged = judge_drags(drawn, [case.drag for case in cases], judge)
    edits = {"drag", "source"} & set(drawn.settings["modules"])
    blank = {} if edits else dict.fromkeys(OF_SOURCE, float("nan"))
    rows = [both | row | blank for both, row in zip(dragged.rows, asked.rows, strict=True)]
    return Scored(rows, asked.found, asked.features)


VERDICTS = {
    "dga": of_prompts,
    "dca": of_prompts,
    "dma": of_drags,
    "combinations": of_combinations,
    "layout": of_layouts,
}


def main(experiment: str, case: str) -> None:
    folder = output(f"{RESULTS.name}/{experiment}/score/{case}", FILES)
    drawn = load(RESULTS / experiment / "sample" / case)
    scored = VERDICTS[experiment](drawn, Judge.from_pretrained(weights("judge")).eval())
    save(scored, folder)
    shown = {name: np.nanmean([row[name] for row in scored.rows]) for name in SHOWN if name in scored.rows[0]}
    print(f"{case}: {len(scored.rows)} images, " + ", ".join(f"{name} {value:.3f}" for name, value in shown.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
