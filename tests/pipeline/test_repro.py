"""What `make repro` says, and what it does with a lock that a kill has damaged."""

import subprocess
import sys

import pytest

from helpers.pipeline import repro

WHOLE = "schema: '2.0'\nstages:\n  code:\n    cmd: python\n"


@pytest.fixture
def lock(monkeypatch, tmp_path):
    """A repository's lock, whole, and the place of its copy."""
    for name, path in {"ROOT": tmp_path, "LOCK": tmp_path / "dvc.lock", "COPY": tmp_path / ".dvc" / "dvc.lock"}.items():
        monkeypatch.setattr(repro, name, path)
    repro.LOCK.write_text(WHOLE)
    return repro.LOCK


@pytest.mark.parametrize("damaged", ["", WHOLE[:9], "stages: [", "schema: '2.0'\nstages: {}\n"])
def test_a_damaged_lock_is_named_with_its_cure(lock, damaged):
    lock.write_text(damaged)
    with pytest.raises(SystemExit, match="dvc.lock is damaged.*: git checkout dvc.lock$"):
        repro.check_lock()
    lock.write_text(WHOLE)
    repro.check_lock()
    lock.write_text(damaged)
    with pytest.raises(SystemExit, match="cp .dvc/dvc.lock dvc.lock$"):
        repro.check_lock()
    assert lock.read_text() == damaged, "repairing is the user's"
    assert repro.COPY.read_text() == WHOLE


def test_running_stages_are_told_and_the_rest_is_counted(lock, capsys):
    lines = [
        "'data.dvc' didn't change, skipping",
        "Stage 'score_dga@none' didn't change, skipping",
        "Running stage 'sample_dga@full':",
        "> papermill ...",
        "batches:  25%|##        | 1/4 [00:02<00:06]",
        None,
        "Running stage 'score_dga@full':",
        "no judge",
    ]
    assert repro.tell(lines) == ["no judge"]
    first, progress, waiting, second, summary = capsys.readouterr().out.splitlines()
    assert first.endswith(" sample_dga@full") and "batches:  25%" in progress and "sample_dga@full: 0 s" in waiting
    assert second.endswith(" score_dga@full") and summary == "2 stages ran, 1 were up to date"


def test_silence_is_noticed(monkeypatch):
    monkeypatch.setattr(repro, "QUIET", 0.1)
    script = "import time; print('begin', flush=True); time.sleep(1); print('end')"
    process = subprocess.Popen([sys.executable, "-c", script], text=True, stdout=subprocess.PIPE)
    found = [*repro.lines_of(process)]
    assert [line for line in found if line] == ["begin", "end"] and None in found
