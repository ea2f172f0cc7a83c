"""`dvc repro` for people: `python -m helpers.pipeline.repro [options of dvc repro]` prints a line for each stage that
runs and what it is doing, a number for the rest, the last output of what failed.

What the lock proves is not computed again, even where samples are not on this machine. A changed stage that needs such
samples stops DVC; then its experiment is computed again whole. DVC writes dvc.lock anew after every stage, and a kill
in that moment leaves it empty: a copy of the last whole one is kept, and offered when the lock is found damaged.
"""

import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from helpers.paths import ROOT
from helpers.pipeline.report import reports

LOCK = ROOT / "dvc.lock"
COPY = ROOT / ".dvc" / "tmp" / "dvc.lock"
QUIET = 30  # seconds without news after which the running stage is named again
TAIL = 40  # lines of output that are shown of a stage that failed
RUNS = re.compile(r"Running stage '(.+)'")
SKIPPED = re.compile(r"Stage '.+' (didn't change|is cached)")
PROGRESS = re.compile(r"batches: *\d+%.*")


def is_whole(lock: Path) -> bool:
    """Can the lock be read, and is there a stage in it?"""
    try:
        return bool(yaml.load(lock.read_text(), Loader=yaml.CSafeLoader)["stages"])
    except (OSError, TypeError, KeyError, ValueError, yaml.YAMLError):
        return False


def check_lock() -> None:
    """SystemExit that says how to repair a damaged lock; otherwise it is copied."""
    if is_whole(LOCK):
        COPY.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(LOCK, COPY)
        return
    cure = f"cp {COPY.relative_to(ROOT)} {LOCK.name}" if is_whole(COPY) else f"git checkout {LOCK.name}"
    raise SystemExit(f"{LOCK.name} is damaged, probably by a kill while it was written. Repair it: {cure}")


def lines_of(process: subprocess.Popen) -> Iterator[str | None]:
    """What a process prints, line by line; None when it printed nothing for a while."""
    printed: queue.Queue = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            printed.put(line.strip())
        printed.put(StopIteration)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = printed.get(timeout=QUIET)
        except queue.Empty:
            line = None
        if line is StopIteration:
            return
        yield line


def tell(lines: Iterable[str | None]) -> list[str]:
    """Print what DVC does, a line per running stage; the last lines that the last of them printed."""
    tail: deque[str] = deque(maxlen=TAIL)
    ran, skipped, name, began = 0, 0, "dvc", time.monotonic()
    for line in lines:
        if line is None:
            print(f"         {name}: {time.monotonic() - began:.0f} s", flush=True)
        elif stage := RUNS.search(line):
            check_lock()
            ran, name, began = ran + 1, stage[1], time.monotonic()
            tail.clear()
            print(time.strftime("%H:%M:%S"), name, flush=True)
        elif SKIPPED.search(line):
            skipped += 1
        elif progress := PROGRESS.search(line):
            print("        ", progress[0], flush=True)
        elif line:
            tail.append(line)
    print(f"{ran} stages ran, {skipped} were up to date", flush=True)
    return list(tail)


def repro(*options: str) -> int:
    """Run `dvc repro`, tell what it does and, if it failed, why; its exit status."""
    command = [sys.executable, "-m", "dvc", "repro", *options]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    tail = tell(lines_of(process))
    if process.wait():
        print("\n".join(tail), flush=True)
    return process.returncode


def main(*options: str) -> int:
    check_lock()
    if "--force" in options:
        return repro(*options)
    if repro("--allow-missing", *options) == 0:
        return 0
    print("experiment by experiment, with the samples that are not on this machine:")
    for report in (f"report_{name}" for name in reports()):
        if repro("--allow-missing", *options, report) and (status := repro(*options, report)):
            return status
    return repro("--allow-missing", *options)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
