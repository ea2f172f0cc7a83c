"""What a run recorded of a few images, step by step: for figures and widgets, which never sample."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F

from helpers.conditions import Drag, Layout
from helpers.files import replace_folder

FILES = ("trace.json", "arrays.npz")
SIDE = 128  # frames are not kept larger


@dataclass
class Record:
    """One image of a run, over its S steps.

    frames: uint8 (S, H, W, 3), x0_hat decoded. final: uint8 (H, W, 3). maps: "<method>.<name>" -> (S, ...), maps in
    [0, 1] as uint8 of 0 to 255 ("dga.masks": (S, regions, h, w)), a method's `signed` ones as float16 ("dma.flow": (S,
    2, h, w) in pixels), numbers per region as float32. curves: "<method>" (its loss), "<method>.<term>", "grad_rms",
    "update_rms", "eff_cfg" -> float32 (S,), NaN where not computed. Losses are there at every step, also outside the
    method's window.
    """

    index: int
    prompt: str
    seed: int
    layout: Layout | None = None
    drag: Drag | None = None
    frames: np.ndarray | None = None
    final: np.ndarray | None = None
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)


class Trace:
    """Give one to `sample` to record the images at these positions of the run; then `save` it, later `Trace.load` it.
    By hand: `for ctx in trace.watch(denoise(...))`.

    records: one Record per image. timesteps, sigmas: lists of length S (sigma_t = sqrt(1 - alpha_bar)).
    settings: how the run was made, by method: window, weight, strength, ...
    """

    def __init__(self, images: Sequence[int] = (0,)):
        self.images = list(images)
        self.records: list[Record] = []
        self.timesteps: list[int] = []
        self.sigmas: list[float] = []
        self.settings: dict[str, dict] = {}

    def watch(self, steps):
        """Record steps of `denoise` while they pass. What attention methods would show outside their windows is there
        only if `denoise` was told to `record` it."""
        job = None
        for ctx in steps:
            if ctx.job is not job:
                job = ctx.job
                self.begin(job)
            self.record(ctx)
            yield ctx
            if ctx.i == ctx.steps - 1 and not ctx.again:
                with torch.no_grad():
                    self.end(ctx, ctx.backbone.decode(ctx.x_prev))

    def begin(self, job) -> None:
        outside = [k for k in self.images if not 0 <= k < len(job.prompts)]
        if outside or len(set(self.images)) < len(self.images):
            raise ValueError(
                f"the trace wants images {self.images} of a run of {len(job.prompts)}: name each once, counted from 0"
            )
        self.records = [
            Record(k, job.prompts[k].text, job.seeds[k], _asked(job, "layouts", k), _asked(job, "drags", k))
            for k in self.images
        ]
        self.settings = {method.name: method.settings() for method in job.states} | {"steps": job.steps}
        self.timesteps, self.sigmas = [0] * job.steps, [0.0] * job.steps

    @torch.no_grad()
    def record(self, ctx) -> None:
        """A step of the batch ctx.index, of the Trace's images also with the methods outside their window, which are
        seen but do not act. A repeated step keeps the last."""
        rows = [row for row, k in enumerate(ctx.index) if k in self.images]
        if not rows or ctx.again:
            return
        part, states = ctx.part(rows), ctx.job.states
        self.timesteps[ctx.i], self.sigmas[ctx.i] = int(ctx.t), float(ctx.level.sigma)
        frames = _frames(part.image)
        seen = {method: method.energy(part, states[method]) for method in states if hasattr(method, "energy")
                and method not in ctx.losses and _readable(method, ctx)}  # fmt: skip
        for method, (loss, info) in ctx.losses.items():
            seen[method] = loss[rows], {key: value[rows] for key, value in info.items()}
        found = [(method, "", loss) for method, (loss, _) in seen.items()]
        infos = [(method, info) for method, (_, info) in seen.items()]
        infos += [(method, method.show(part, states[method])) for method in states]
        found += [(method, f".{key}", value) for method, info in infos for key, value in info.items()]
        for row, k in enumerate(part.index):
            record = self.records[self.images.index(k)]
            record.frames = _put(record.frames, ctx, frames[row])
            for name, values in ctx.curves.items():
                record.curves[name] = _put(record.curves.get(name), ctx, values[rows[row]].float().cpu().numpy())
            for method, key, values in found:
                value = values[row].detach().float().cpu().numpy()
                if value.ndim and hasattr(method, "layouts"):
                    value = value[: len(record.layout.regions)]  # the images of a batch may have more
                if value.ndim > 1:
                    value = value.astype(np.float16) if method.exact(key[1:]) else _bytes(value)
                kept = record.maps if value.ndim else record.curves
                kept[method.name + key] = _put(kept.get(method.name + key), ctx, value)

    def end(self, ctx, images: torch.Tensor) -> None:
        """The finished pictures (B, 3, H, W) of a batch."""
        for row, k in enumerate(ctx.index):
            if k in self.images:
                self.records[self.images.index(k)].final = _frames(images[row : row + 1])[0]

    def save(self, folder: str | Path) -> Path:
        """Write trace.json and arrays.npz, all or nothing; an older trace at `folder` is replaced, nothing else is."""
        arrays, entries = {}, []
        for n, record in enumerate(self.records):
            arrays |= {f"{n}/frames": record.frames, f"{n}/final": record.final}
            arrays |= {f"{n}/maps/{name}": values for name, values in record.maps.items()}
            arrays |= {f"{n}/curves/{name}": np.float32(values) for name, values in record.curves.items()}
            asked = {"layout": record.layout, "drag": record.drag}
            asked = {kind: condition and condition.model_dump(mode="json") for kind, condition in asked.items()}
            entries.append({"index": record.index, "prompt": record.prompt, "seed": record.seed, **asked})
        head = {"timesteps": self.timesteps, "sigmas": self.sigmas, "settings": self.settings, "records": entries}

        def write(new: Path) -> None:
            (new / "trace.json").write_text(json.dumps(head, indent=1) + "\n")
            np.savez_compressed(new / "arrays.npz", **arrays)

        return replace_folder(folder, write, FILES)

    @classmethod
    def load(cls, folder: str | Path) -> "Trace":
        """Read what `save` wrote; FileNotFoundError when it is not there, ValueError when it is damaged."""
        folder = Path(folder)
        for name in ("trace.json", "arrays.npz"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}, so it is no trace: make one with sample(..., trace=)")
        try:
            return cls._read(folder)
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, BadZipFile, zlib.error) as error:
            raise ValueError(
                f"the trace in {folder} is damaged ({type(error).__name__}: {error!s:.80}): delete the folder and make "
                "it again with sample(..., trace=)"
            ) from error

    @classmethod
    def _read(cls, folder: Path) -> "Trace":
        head = json.loads((folder / "trace.json").read_text())
        trace = cls([entry["index"] for entry in head["records"]])
        trace.timesteps, trace.sigmas, trace.settings = head["timesteps"], head["sigmas"], head["settings"]
        with np.load(folder / "arrays.npz") as arrays:
            for n, entry in enumerate(head["records"]):
                asked = {
                    name: kind.model_validate(entry[name]) if entry.get(name) else None
                    for name, kind in {"layout": Layout, "drag": Drag}.items()
                }
                own = {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{n}/")}
                kinds = {
                    kind: {key.split("/", 1)[1]: value for key, value in own.items() if key.startswith(kind + "/")}
                    for kind in ("maps", "curves")
                }
                places = {key: entry[key] for key in ("index", "prompt", "seed")}
                trace.records.append(Record(**places, **asked, frames=own["frames"], final=own["final"], **kinds))
        return trace


def _asked(job, kind: str, k: int):
    """The layout or drag of image k, where a method was given any."""
    given = next((one for method in job.states if (one := getattr(method, kind, None)) is not None), None)
    return given[k] if isinstance(given, Sequence) else given


def _readable(method, ctx) -> bool:
    """Is the attention that the method reads there?"""
    return not method.layers or any(site in method.layers for site in ctx.attention.maps)


def _bytes(values: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8 of 0 to 255."""
    return (values * 255).round().clip(0, 255).astype(np.uint8)


def _put(kept: np.ndarray | None, ctx, value: np.ndarray) -> np.ndarray:
    """`value` at step ctx.i of an array over all steps, which is made when there is none yet; numbers that are not
    computed at a step are NaN."""
    kept = np.full((ctx.steps, *value.shape), np.nan if value.ndim == 0 else 0, value.dtype) if kept is None else kept
    kept[ctx.i] = value
    return kept


def _frames(images: torch.Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] -> uint8 (B, h, w, 3), at most SIDE pixels on a side."""
    images = images.detach().float().clamp(0, 1)
    if max(images.shape[-2:]) > SIDE:
        scale = SIDE / max(images.shape[-2:])
        images = F.interpolate(images, scale_factor=scale, mode="bilinear", antialias=True)
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
