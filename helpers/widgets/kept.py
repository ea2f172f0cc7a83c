"""Traces that a notebook samples itself, kept in out/explore, so that it opens at once the second time."""

import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path

from helpers.files import replace_folder
from helpers.paths import DATA, MODELS, ROOT
from helpers.sampling.trace import Trace

CODE = ROOT / "helpers"
MADE_OF = "made-of.json"


def kept(name: str, record: Callable[[], dict[str, Trace]], *settings: object) -> dict[str, Trace]:
    """What `record()` returns: sampled, or read from out/explore/<name> if it was sampled there by the same source,
    with the same `settings` (their repr counts), code in helpers, models and data."""
    folder, made_of = ROOT / "out" / "explore" / name, _made_of(record, settings)
    if (folder / MADE_OF).is_file():
        found = json.loads((folder / MADE_OF).read_text())
        if found["of"] == made_of:
            return {case: Trace.load(folder / case / "trace") for case in found["cases"]}
    traces = record()

    def write(new: Path) -> None:
        for case, trace in traces.items():
            trace.save(new / case / "trace")
        (new / MADE_OF).write_text(json.dumps({"of": made_of, "cases": list(traces)}))

    replace_folder(folder, write)
    return traces


def _made_of(record: Callable, settings: tuple) -> str:
    """One digest of all that decides what is sampled; of the large files only sizes and times."""
    parts = [inspect.getsource(record), repr(settings)]
    parts += [f"{path} {path.read_text()}" for path in sorted(CODE.rglob("*.py"))]
    files = (path for top in (MODELS, DATA) for path in sorted(top.rglob("*")) if path.is_file())
    parts += [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
