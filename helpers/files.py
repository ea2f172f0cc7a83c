"""Files and folders written whole or not at all. What somebody else made is never deleted: only here is one removed.

A folder that `replace_folder` wrote lists its files in a marker; it may be replaced as long as it holds nothing else.
"""

import errno
import os
import random
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, TypeVar

from helpers.paths import ROOT

MARKER = ".written-files"
OUTPUTS = ("out", "results")  # below them lies what notebooks and stages make
GENERATED = (*OUTPUTS, "models", "checkpoints")  # below them a folder of the repository may be replaced
TRIES, PAUSE = 100, 0.01  # how often and how fast (seconds) a writer or reader meets another one
T = TypeVar("T")


def output(out: str, files: Collection[str] = ()) -> Path:
    """The folder that a parameter `out` names, relative to the repository; nothing is made yet.

    files: paths of all that will be written there, where `replace_folder` is to replace it. ValueError unless it lies
    below out/ or results/ and holds nothing that somebody else put there.
    """
    cure = f"name a folder below {' or '.join(f'{top}/' for top in OUTPUTS)} in the repository, such as out/mine"
    if not isinstance(out, str) or not out.strip():
        raise ValueError(f"out={out!r} names no folder: {cure}")
    if Path(out).is_absolute() or ".." in Path(out).parts:
        raise ValueError(f"out={out!r} leaves the repository: {cure}")
    folder = ROOT / out
    if not any((ROOT / top).resolve() in folder.resolve().parents for top in OUTPUTS):
        raise ValueError(f"out={out!r} is no place for results: {cure}")
    _check_place(folder.resolve())
    if files:
        _check_files(folder, files)
    return folder


def replace_folder(folder: str | Path, write: Callable[[Path], object], files: Collection[str] = ()) -> Path:
    """Make `folder` anew, all or nothing: write(new) fills an empty folder that then takes its place.

    An older one is replaced if it holds only what this function wrote, or files of these paths, or such as the new one
    has too. ValueError, before anything is written, for one with other files, and for the repository, the working or
    the home directory, their parents, and folders that git keeps. Of several writers the last one wins, whole.
    """
    folder = Path(folder).resolve()  # a link stays, what it points to is replaced
    _check_place(folder)
    if (folder / MARKER).exists():  # else its files are compared with the new ones below
        _check_files(folder, files)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(folder)
    new = scratch / folder.name
    new.mkdir(parents=True)
    try:
        write(new)
        own = sorted(set(_files(new)) - {MARKER})
        (new / MARKER).write_text("".join(f"{name}\n" for name in own))
        _swap(new, folder, {*files, *own})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def remove_folder(folder: str | Path) -> None:
    """Delete a folder that `replace_folder` wrote. ValueError, before anything is, for one with other files and for one
    that is never replaced."""
    folder = Path(folder).resolve()
    _check_place(folder)
    _check_files(folder, ())
    shutil.rmtree(folder)


def read_folder(folder: str | Path, read: Callable[[Path], T]) -> T:
    """read(folder), all of it from one state of the folder also while another process replaces it.

    RuntimeError when it was replaced at every try.
    """
    folder = Path(folder)
    for _ in range(TRIES):
        before = _state(folder)
        try:
            found = read(folder)
        except Exception:
            between = before is None and any(folder.parent.glob(f".{escape(folder.name)}.*"))  # a new one comes
            if _state(folder) == before and not between:
                raise
        else:
            if _state(folder) == before:
                return found
        time.sleep(PAUSE)
    raise RuntimeError(f"{folder} was replaced again and again while it was read: wait until what writes it is done")


@contextmanager
def writing(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """An open file, "w" for text or "wb" for bytes, that becomes `path` when the block ends without an error."""
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(path)
    try:
        with open(new, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A hidden name that no other writer has, in the same folder, so that renaming it is atomic."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def _swap(new: Path, folder: Path, known: Collection[str]) -> None:
    """Put `new` where `folder` is. Between the two renames another writer may put its own there: then once more."""
    old = new.with_name(f"{new.name}.old")
    try:
        for _ in range(TRIES):
            _check_files(folder, known)
            with suppress(FileNotFoundError):
                folder.rename(old)
            try:
                new.rename(folder)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            shutil.rmtree(old, ignore_errors=True)  # another writer's took its place
            time.sleep(random.uniform(0, PAUSE))
    except BaseException:
        if old.exists() and not folder.exists():  # an error or a signal between the two renames: nothing is lost
            with suppress(OSError):  # unless another writer has put its own there
                old.rename(folder)
        raise
    raise RuntimeError(f"{folder} is replaced by others all the time: wait for them, or choose another folder")


def _check_files(folder: Path, known: Collection[str]) -> None:
    """ValueError if the folder holds what is neither in its marker nor in `known`."""

    def first_foreign(folder: Path) -> str | None:
        marker = folder / MARKER
        own = {MARKER, *known, *(marker.read_text().splitlines() if marker.is_file() else ())}
        return next((name for name in _files(folder) if name not in own), None)

    foreign = read_folder(folder, first_foreign)
    if foreign is not None:
        raise ValueError(
            f"{folder} holds {foreign!r}, which was not written by the lab, so it is not replaced: move it away, or "
            "choose another folder"
        )


def _check_place(folder: Path) -> None:
    """ValueError for a folder (resolved) that is never replaced, whatever it holds."""
    home = Path(os.path.expanduser("~"))
    kept = {"the repository": ROOT, "the working directory": Path.cwd(), "the home directory": home}
    for name, place in kept.items():
        if folder == place.resolve() or folder in place.resolve().parents:
            raise ValueError(f"{folder} is {name} or holds it and is never replaced: choose a folder of its own")
    if ".git" in folder.parts:
        raise ValueError(f"{folder} belongs to git and is never replaced: choose another folder")
    generated = [(ROOT / top).resolve() for top in GENERATED]
    if ROOT.resolve() in folder.parents and not any(top in folder.parents for top in generated):
        raise ValueError(
            f"{folder} is part of the repository and is never replaced: choose a folder below "
            f"{', '.join(f'{top}/' for top in OUTPUTS)}"
        )
    file = next((place for place in (folder, *folder.parents) if place.exists() and not place.is_dir()), None)
    if file:
        raise ValueError(f"{file} is a file, no folder: move it away, or choose another name")


def _files(folder: Path) -> Iterator[str]:
    """Paths of all that lies in a folder, relative to it; of a folder in it only if that is empty or a link."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        bare = here != folder and not folders and not names
        for path in (*(here / name for name in (*names, *links)), *([here] if bare else ())):
            yield path.relative_to(folder).as_posix()


def _state(folder: Path) -> tuple | None:
    """Tells one folder from another that takes its place; None where there is none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
