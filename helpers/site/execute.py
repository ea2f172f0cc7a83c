"""Notebooks executed for the site, measured and kept until their code, their text, their settings or a model changes.

They are an output of the pipeline's frozen stage `pages`, so that a clone builds the site without running anything.
"""

import hashlib
import io
import re
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import cache, reduce
from pathlib import Path

import nbformat
import psutil
import yaml
from nbclient import NotebookClient
from PIL import Image

from helpers.figures.palette import reduced
from helpers.files import writing
from helpers.params import read
from helpers.paths import ROOT
from helpers.pipeline.fingerprint import sources

KEPT = ROOT / "executed" / "pages"
PROFILE = "page"  # of params.yaml: few pictures, all steps


def executed(path: Path, parameters: Mapping[str, object] = {}) -> nbformat.NotebookNode:  # noqa: B006 (only read)
    """The notebook with its outputs; metadata.measured holds seconds and peak memory in MB of that run. parameters:
    values in the place of those that its cell of parameters states."""
    kept, key = KEPT / path.parent.name / path.name, _key(path, parameters)
    if kept.exists():
        found = nbformat.read(kept, as_version=4)
        if found.metadata.get("key") == key:
            return found
    print(f"site: runs {path.relative_to(ROOT)}", file=sys.stderr, flush=True)
    notebook, begin = stated(nbformat.read(path, as_version=4), parameters), time.perf_counter()
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    )
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        peak = _peak_mb(client.km.provisioner.pid)
    notebook.metadata.measured = {"seconds": round(time.perf_counter() - begin), "peak_mb": round(peak)}
    notebook.metadata.key = key
    tidy(notebook)
    with writing(kept) as file:
        nbformat.write(notebook, file)
    return notebook


def stated(notebook: nbformat.NotebookNode, parameters: Mapping[str, object]) -> nbformat.NotebookNode:
    """The same with these values of its parameters."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "".join(f"\n{name} = {value!r}  # on this page" for name, value in parameters.items())
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave out, in place, what only one run on one machine says (bars and warnings), and make the pictures small."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = smaller(output.data["image/png"])


def smaller(png: str) -> str:
    """A picture in base64 with a palette of its own; as it was where that is no smaller."""
    stream = io.BytesIO()
    reduced(Image.open(io.BytesIO(b64decode(png)))).save(stream, "png", optimize=True)
    return min(b64encode(stream.getvalue()).decode(), png.strip(), key=len)


def _key(path: Path, parameters: Mapping[str, object]) -> str:
    """Of all that decides what the notebook shows: its text, the code that it imports, the settings that it reads, and
    the models that any of these names."""
    place = ("notebooks", *path.relative_to(ROOT / "notebooks").with_suffix("").parts)
    text, keys, settings = path.read_text(), yaml.safe_load((ROOT / "code.yaml").read_text()), ""
    code = reduce(lambda found, part: found.get(part, {}), place, keys), keys["cases"].get(path.stem)
    if parameters:
        stated = yaml.safe_load((ROOT / "params.yaml").read_text())
        used = stated | {"training": None, "profiles": stated["profiles"][parameters["profile"]]}
        settings = repr((sorted(parameters.items()), used))
    said = "\n".join([text, settings, *(file.read_text() for file in _imported().get(place, []))])
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    outs = [out for name, stage in lock.items() if name.startswith("train_") for out in stage["outs"]]
    models = [out["md5"] for out in outs if re.search(rf"[\"']{Path(out['path']).name}\b", said)]
    return hashlib.sha256("\0".join([text, str(code), settings, *models]).encode()).hexdigest()[:12]


@cache
def _imported() -> dict[tuple[str, ...], list[Path]]:
    """The files of helpers that every notebook imports."""
    return dict(sources(read()))


def _peak_mb(pid: int) -> float:
    """Peak memory of a process, where the system tells it; else what it holds now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return psutil.Process(pid).memory_info().rss / 2**20
