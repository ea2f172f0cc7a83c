"""The judges' verdict on sampled images, kept per image: `python -m helpers.pipeline.score dga full` scores one case.

One folder per case holds all that reports read, small enough for git: score.npz (a row of numbers and the recognised
objects per image) and showcase/, a Trace of the first images.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from helpers.benchmarks.base import DragItem, LayoutItem, load_benchmark
from helpers.benchmarks.miniature import load_scenes
from helpers.benchmarks.miniature_edits import edited
from helpers.files import read_folder, replace_folder
from helpers.judges.base import Found
from helpers.judges.clip_score import clip_score
from helpers.judges.loading import load_judge
from helpers.judges.quality import Quality
from helpers.judges.recogniser import Recogniser
from helpers.metrics import appearance, concepts, drag, layout
from helpers.paths import RESULTS
from helpers.perception.similarity import Similarity
from helpers.pipeline.samples import Samples, load
from helpers.sampling import trace as traces
from helpers.sampling.trace import Trace

FILES = ("score.npz", *(f"showcase/{name}" for name in traces.FILES))
NO_MASK = np.zeros((0, 0), bool)
PICTURES = {"dca": 32}  # how many of an experiment's pictures its report shows beyond the showcase
SHOWN = ("recall", "box_iou", "clip_score", "drag_md", "edit_fidelity")  # printed by the stage
OF_SOURCE = ("drag_md", "image_fidelity", "edit_fidelity", "background_psnr")


@dataclass
class Scored:
    """rows: per image id, metrics and costs. found: the recognised objects, without their masks once they are loaded.
    features: (n, 64) of the judge. pictures: uint8 (k, H, W, 3), the first ones, where a report shows them.
    """

    rows: list[dict]
    found: list[list[Found]]
    features: torch.Tensor
    pictures: np.ndarray | None = None

    def part(self, ids: Sequence[str]) -> "Scored":
        """The images of these benchmark cases, in this order; KeyError when one was not scored."""
        place = {row["id"]: k for k, row in enumerate(self.rows)}
        order = [place[name] for name in ids]
        return Scored([self.rows[k] for k in order], [self.found[k] for k in order], self.features[order])


def judge_images(
    samples: Samples,
    scenes: Sequence[LayoutItem],
    judge: Recogniser,
    clip: Similarity | None = None,
    quality: Quality | None = None,
) -> Scored:
    """Score images against the benchmark cases that they were drawn for, in the same order. clip: adds clip_score,
    quality: clip_iqa."""
    check(samples, scenes)
    found, backgrounds = judge.recognise(samples.images), judge.background(samples.images)
    rows = [
        layout.score(scene, objects, background) | concepts.score(scene, objects)
        for scene, objects, background in zip(scenes, found, backgrounds, strict=True)
    ]
    if clip:
        for row, fit in zip(rows, clip_score(clip, samples.images, [scene.prompt for scene in scenes])):
            row["clip_score"] = float(fit)
    if quality:
        for row, fine in zip(rows, quality(samples.images)):
            row["clip_iqa"] = float(fine)
    return _scored(samples, rows, found, judge)


def judge_drags(samples: Samples, cases: Sequence[DragItem], judge: Recogniser) -> Scored:
    """Score edited pictures against the drags that they were drawn for, in the same order."""
    check(samples, cases)
    found = judge.recognise(samples.images)
    return _scored(samples, drag_rows(cases, samples.images, found, judge), found, judge)


def drag_rows(
    cases: Sequence[DragItem], images: torch.Tensor, found: list[list[Found]], judge: Recogniser
) -> list[dict]:
    """`drag.score` of pictures, and edit_fidelity: 1 - distance to the rendered edit, nan where there is none."""
    before, after = judge.pyramid(torch.stack([case.drag.image() for case in cases])), judge.pyramid(images)
    rows = drag.score(cases, images, found, before, after)
    fidelity = torch.full((len(cases),), torch.nan)
    known = [k for k, case in enumerate(cases) if case.scene is not None]
    if known:
        truth = torch.from_numpy(np.stack([edited(cases[k]) for k in known])).permute(0, 3, 1, 2) / 255
        fidelity[known] = 1 - drag.perceptual_distance(judge.pyramid(truth), [scale[known] for scale in after])
    return [row | {"edit_fidelity": value} for row, value in zip(rows, fidelity.tolist(), strict=True)]


def check(samples: Samples, cases: Sequence) -> None:
    """ValueError unless every image was drawn for the case at its place."""
    for k, (case, row) in enumerate(zip(cases, samples.rows, strict=True)):
        if case.id != row["id"]:
            raise ValueError(f"image {k} was drawn for case {row['id']!r}, not for {case.id!r}: keep their order")


def _scored(samples: Samples, verdicts: Sequence[dict], found: list[list[Found]], judge: Recogniser) -> Scored:
    looks = {"contrast": appearance.contrast(samples.images), "saturation": appearance.saturation(samples.images)}
    rows = [
        row | verdict | {name: float(values[k]) for name, values in looks.items()}
        for k, (row, verdict) in enumerate(zip(samples.rows, verdicts, strict=True))
    ]
    return Scored(rows, found, judge.features(samples.images))


def save(scored: Scored, folder: Path, trace: Trace | None = None) -> None:
    """Write score.npz and, of a trace, showcase/ into `folder`, all or nothing. Numbers keep seven digits, features
    three."""
    arrays = {f"row/{name}": _column([row[name] for row in scored.rows]) for name in scored.rows[0]}
    found = [(image, thing) for image, things in enumerate(scored.found) for thing in things]
    arrays["found/image"] = np.array([image for image, _ in found], np.int32)
    for name, kind in (("kind", str), ("color", str), ("pattern", str), ("score", np.float32), ("box", np.int16)):
        arrays[f"found/{name}"] = np.array([getattr(thing, name) for _, thing in found], kind)
    if scored.pictures is not None:
        arrays["pictures"] = scored.pictures

    def write(new: Path) -> None:
        np.savez_compressed(new / "score.npz", features=scored.features.half().numpy(), **arrays)
        if trace is not None:
            shown(trace).save(new / "showcase")

    replace_folder(folder, write, FILES)


def _column(values: list) -> np.ndarray:
    column = np.array([np.nan if value is None else value for value in values])
    return column.astype(np.float32) if column.dtype.kind == "f" else column


def load_score(folder: Path) -> Scored:
    """What `save` wrote, without the showcase; FileNotFoundError says how to make it."""

    def read(folder: Path) -> dict[str, np.ndarray]:
        if not (folder / "score.npz").exists():
            raise FileNotFoundError(f"{folder} holds no scores: run `dvc repro`")
        with np.load(folder / "score.npz") as stored:
            return dict(stored)

    arrays = read_folder(folder, read)
    columns = {name.removeprefix("row/"): arrays[name].tolist() for name in arrays if name.startswith("row/")}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    found: list[list[Found]] = [[] for _ in rows]
    things = zip(*(arrays[f"found/{name}"].tolist() for name in ("image", "kind", "color", "pattern", "score", "box")))
    for image, kind, color, pattern, score, box in things:
        found[image].append(Found(kind, color, pattern, score, tuple(box), NO_MASK))
    return Scored(rows, found, torch.from_numpy(arrays["features"]).float(), arrays.get("pictures"))


def shown(trace: Trace) -> Trace:
    """What figures need of a Trace: of every image the final picture and the curves, of one also frames and maps."""
    kept = Trace(trace.images)
    kept.timesteps, kept.sigmas, kept.settings = trace.timesteps, trace.sigmas, trace.settings
    several = next((k for k, of in enumerate(trace.records) if of.layout and len(of.layout.regions) > 1), 0)
    kept.records = [
        record if k == several else replace(record, frames=record.frames[:0], maps={})
        for k, record in enumerate(trace.records)
    ]
    return kept


def whole(trace: Trace) -> int:
    """Which record of a showcase has frames and maps."""
    return next(k for k, record in enumerate(trace.records) if len(record.frames))


def reference_features(judge: Recogniser) -> torch.Tensor:
    """(1000, 64): the judge's features of the held-out scenes, what distances are measured to."""
    images = torch.from_numpy(load_scenes()[0]["images"]).permute(0, 3, 1, 2).float() / 255
    return judge.features(images)


def judged(samples: Samples, benchmark: str, split: str, **variant: str) -> Scored:
    """Pictures against the items of a benchmark that they were drawn for: whatever a prompt and layout, or a drag, of
    these asks for. Where both do, what compares with a source counts only for pictures that were made of one."""
    of = load_benchmark(benchmark)
    items = of.items(split, **variant)[: len(samples.rows)]
    judge = load_judge(of.JUDGE)
    asked, dragged = ([getattr(item, kind, None) for item in items] for kind in ("scene", "drag"))
    if not hasattr(items[0], "drag"):
        return judge_images(samples, items, judge, load_judge("judge-clip"), load_judge("quality"))
    if hasattr(items[0], "layout") or not hasattr(asked[0], "layout"):
        return judge_drags(samples, items, judge)
    scored = judge_images(samples, asked, judge, load_judge("judge-clip"), load_judge("quality"))
    moved = judge_drags(samples, dragged, judge)
    blank = {} if samples.settings["sourced"] else dict.fromkeys(OF_SOURCE, float("nan"))
    rows = [both | row | blank for both, row in zip(moved.rows, scored.rows, strict=True)]
    return Scored(rows, scored.found, scored.features)


def main(experiment: str, case: str) -> None:
    folder = RESULTS / experiment / "sample" / case
    samples = load(folder)
    scored = judged(samples, **samples.items)
    if experiment in PICTURES:
        first = samples.images[: PICTURES[experiment]]
        scored.pictures = (first * 255).round().byte().permute(0, 2, 3, 1).numpy()
    save(scored, RESULTS / experiment / "score" / case, Trace.load(folder / "trace"))
    means = {name: np.nanmean([row[name] for row in scored.rows]) for name in SHOWN if name in scored.rows[0]}
    print(f"{case}: {len(scored.rows)} images, " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
