"""Files and folders written whole, whoever else writes, and nothing of somebody else's deleted."""

import json
import multiprocessing
import os
import subprocess
from pathlib import Path

import pytest
import torch

from helpers import files
from helpers.files import MARKER, output, read_folder, remove_folder, replace_folder, writing
from helpers.pipeline import samples, score
from helpers.sampling.trace import Trace
from helpers.training import checkpoints


def filling(text: str, names=("a.txt", "b/c.txt")):
    def write(new: Path):
        for name in names:
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(text)

    return write


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of somebody's own, with work in it that must survive."""
    root = tmp_path / "home" / "lab"
    for name in ("notebooks/mine.ipynb", "out/notes/idea.txt", "results/dga/score/none/score.npz", "thesis.tex"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    subprocess.run(["git", "init", "-q", root], check=True)
    monkeypatch.setattr(files, "ROOT", root)
    monkeypatch.chdir(root / "notebooks")
    return root


# --- the parameter of a notebook --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "out",
    ["", " ", ".", "..", "./", "notebooks", "out", "results", "out/../notebooks", "out/../../x", "thesis.tex", ".git"]
    + ["/", "/tmp", "/tmp/new", "~", "results/dga/sample/../../../..", "helpers/x", "models/x", "figures", None, 3],
)
def test_a_wrong_out_is_refused_with_its_value_and_the_cure(repository, out):
    before = contents(repository)
    with pytest.raises(ValueError) as error:
        output(out)
    assert f"out={out!r}" in str(error.value) and "such as out/mine" in str(error.value)
    assert contents(repository) == before


def test_an_out_of_ours_is_taken(repository):
    assert output("results/dga/sample/none") == repository / "results/dga/sample/none"
    assert output("out/new") == repository / "out/new" and not (repository / "out/new").exists()
    assert output("results/dga/score/none", score.FILES) == repository / "results/dga/score/none"


def test_an_out_with_foreign_files_is_refused_before_work(repository):
    with pytest.raises(ValueError, match="holds 'idea.txt', which was not written by the lab.* choose another folder"):
        output("out/notes", samples.FILES)
    (repository / "out/file").write_text("x")
    for name in ("out/file", "out/file/deeper/in"):
        with pytest.raises(ValueError, match="out/file is a file"):
            output(name)


def test_results_may_lie_on_another_disk(repository, tmp_path):
    (tmp_path / "disk").mkdir()
    (repository / "results").rename(tmp_path / "disk" / "results")
    (repository / "results").symlink_to(tmp_path / "disk" / "results")
    replace_folder(output("results/x/y"), filling("new"))
    assert (tmp_path / "disk/results/x/y/a.txt").read_text() == "new"
    (repository / "out/link").symlink_to(repository / "notebooks")
    with pytest.raises(ValueError, match="is no place for results"):
        output("out/link")


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "../.git", "../helpers", "../notebooks", "/", "../out", "~"])
def test_places_that_are_never_replaced(repository, name):
    (repository / "helpers").mkdir()
    before = contents(repository)
    folder = Path(name).expanduser() if name == "~" else Path(name)
    with pytest.raises(ValueError, match="never replaced: choose"):
        replace_folder(folder, lambda new: pytest.fail("work was done"))
    with pytest.raises(ValueError, match="never replaced: choose"):
        Trace([]).save(folder)
    assert contents(repository) == before


def test_saving_never_deletes_what_somebody_else_made(repository, tmp_path):
    images = samples.Samples(torch.zeros(1, 3, 8, 8), [{"id": "one", "seed": 0}], [])
    scored = score.Scored([{"id": "one"}], [[]], torch.zeros(1, 64))
    savers = {
        "trace": lambda folder: Trace([]).save(folder),
        "samples": lambda folder: samples.save(images, folder, {"items": {}, "settings": {}}),
        "score": lambda folder: score.save(scored, folder),
        "model": lambda folder: checkpoints.publish(folder, filling("weights"), {"x": {"y": 1.0}}),
    }
    for name, save in savers.items():
        mine, neighbour = tmp_path / name / "mine", tmp_path / name / "mine.part"
        for folder in (mine, neighbour):
            (folder / "deep").mkdir(parents=True)
            (folder / "deep" / "thesis.tex").write_text("years of work")
        with pytest.raises(ValueError, match="holds 'deep/thesis.tex', which was not written by the lab"):
            save(mine)
        save(tmp_path / name / "new")
        save(tmp_path / name / "new")
        assert (neighbour / "deep" / "thesis.tex").read_text() == "years of work"
        assert (mine / "deep" / "thesis.tex").read_text() == "years of work"
        assert sorted(os.listdir(tmp_path / name)) == ["mine", "mine.part", "new"]


def test_one_foreign_file_among_ours_keeps_the_folder(tmp_path):
    folder = replace_folder(tmp_path / "x", filling("one"))
    assert (folder / MARKER).read_text().split() == ["a.txt", "b/c.txt"]
    replace_folder(folder, filling("two", ["d.txt"]))
    assert sorted(contents(folder)) == [MARKER, "d.txt"], "what we wrote is replaced, whatever its name"
    for name in ("notes.txt", "more/notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
        before = contents(folder)
        with pytest.raises(ValueError, match=f"holds '{name}'.*: move it away, or choose another folder"):
            replace_folder(folder, lambda new: pytest.fail("work was done"))
        assert contents(folder) == before
        (folder / name).unlink()
    with pytest.raises(ValueError, match="holds 'more'"):
        replace_folder(folder, filling("three"))
    (folder / "more").rmdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="holds 'link'"):
        replace_folder(folder, filling("three"))


def test_a_folder_from_before_the_marker_is_replaced_if_it_holds_our_names_only(tmp_path):
    filling("old", ["a.txt"])(tmp_path / "x" if not (tmp_path / "x").mkdir() else None)
    assert contents(replace_folder(tmp_path / "x", filling("new", ["a.txt"])))["a.txt"] == "new"
    (tmp_path / "y").mkdir()
    filling("old", ["a.txt", "gone.txt"])(tmp_path / "y")
    with pytest.raises(ValueError, match="holds 'gone.txt'"):
        replace_folder(tmp_path / "y", filling("new", ["a.txt"]))
    replace_folder(tmp_path / "y", filling("new", ["a.txt"]), ["gone.txt"])
    assert sorted(contents(tmp_path / "y")) == [MARKER, "a.txt"]
    (tmp_path / "z").mkdir()
    assert "a.txt" in contents(replace_folder(tmp_path / "z", filling("new"))), "an empty one is free"
    (tmp_path / "z.git" / ".git").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds '.git'"):
        replace_folder(tmp_path / "z.git", filling("new"))


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    folder = replace_folder(tmp_path / "x", filling("old"))
    before = contents(folder)

    def broken(new):
        filling("new")(new)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_folder(folder, broken)
    assert contents(folder) == before and os.listdir(tmp_path) == ["x"]

    rename = Path.rename

    def interrupted(path, to):
        if to == folder and not path.name.endswith(".old"):
            raise KeyboardInterrupt  # between the two renames
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(folder, filling("new"))
    assert contents(folder) == before and os.listdir(tmp_path) == ["x"]


def _write_often(folder: Path, text: str, times: int):
    """A known fault: between two looks at its place another writer takes the folder away, and this one is refused
    though nothing is wrong. It writes nothing then, so nothing is mixed or lost."""
    for _ in range(times):
        try:
            replace_folder(folder, filling(text, ["a.txt", "b/c.txt", f"{text}.txt"]))
        except ValueError as error:
            if "is a file, no folder" not in str(error):
                raise


def test_writers_never_mix_and_readers_see_one_of_them(tmp_path):
    folder = replace_folder(tmp_path / "x", filling("0"))
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write_often, args=(folder, str(k), 60)) for k in range(4)]
    for writer in writers:
        writer.start()
    seen = []
    while any(writer.is_alive() for writer in writers) or not seen:
        seen.append(read_folder(folder, lambda f: [(f / name).read_text() for name in ("a.txt", "b/c.txt")]))
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert all(first == second for first, second in seen)
    assert os.listdir(tmp_path) == ["x"]


def test_a_reader_of_what_changes_all_the_time_is_told(tmp_path):
    folder = replace_folder(tmp_path / "x", filling("0"))
    with pytest.raises(RuntimeError, match="x was replaced again and again while it was read: wait"):
        read_folder(folder, lambda f: replace_folder(folder, filling("1")))
    with pytest.raises(FileNotFoundError, match="y"):
        read_folder(tmp_path / "y", lambda f: (f / "a.txt").read_text())


def test_only_a_folder_of_ours_is_removed(tmp_path, repository):
    folder = replace_folder(tmp_path / "x", filling("old"))
    (folder / "b" / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(ValueError, match="holds 'b/notes.txt', which was not written by the lab"):
        remove_folder(folder)
    assert contents(folder) == before
    (folder / "b" / "notes.txt").unlink()
    remove_folder(folder)
    assert not folder.exists()
    before = contents(repository)
    for other in (repository, repository / "out/notes", repository / "notebooks"):
        with pytest.raises(ValueError, match="is never replaced|was not written by the lab"):
            remove_folder(other)
    assert contents(repository) == before


# --- single files -----------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "numbers.json"
    with writing(path) as file:
        json.dump({"a": "ä"}, file, ensure_ascii=False)
    with pytest.raises(TypeError), writing(path) as file:
        json.dump([1, set()], file)
    assert json.loads(path.read_bytes()) == {"a": "ä"} and os.listdir(path.parent) == ["numbers.json"]
    with writing(path) as one, writing(path) as two:
        one.write("1" * 9)
        two.write("2")
    assert path.read_text() == "1" * 9, "the last one that is done wins, whole"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pictures_that_are_not_finite_are_never_saved(tmp_path, value):
    images = torch.zeros(3, 3, 8, 8)
    images[1, 2, 3, 4] = value
    rows = [{"id": f"scene-{k}", "seed": 40 + k} for k in range(3)]
    with pytest.raises(ValueError, match=r"1 of 3 pictures are not finite.*: scene-1 \(seed 41\); lower the strength"):
        samples.save(samples.Samples(images, rows, []), tmp_path / "x", {"items": {}, "settings": {}})
    assert os.listdir(tmp_path) == []


def test_only_one_file_removes_folders():
    root = Path(__file__).parents[1]
    sources = [*root.glob("helpers/**/*.py"), *root.glob("notebooks/*.ipynb")]
    assert [p.name for p in sources if "rmtree" in p.read_text()] == ["files.py"]
