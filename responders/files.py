"""Writing folders and JSON files so that nothing incomplete is left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from responders.errors import InputError

_MARKS = (
    "card.json",
    "leaderboard.json",
    "suite.json",
    "rank.json",
    "pretrain.json",
    "interpretation.json",
)  # what a folder that may be replaced has one of


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing to `path`; the lock ends with its process, even if killed.

    Parents of `path` are created; those still empty at the end are removed.

    Args:
        path: the file or folder, which need not exist.
        wait: wait for another process instead of raising.

    Raises:
        InputError: another process has the lock, the parent of `path` is not writable, or writing
            fails in the block, as on a full disk.
    """
    real = path.resolve()
    file = real.parent / f".{real.name}.lock"
    made = [parent for parent in real.parents if not parent.exists()]
    held = FileLock(file, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        _acquire(held, file, path)
        try:
            with _name_in_errors(path):
                yield
        finally:
            with suppress(OSError):  # Windows keeps open files
                file.unlink()  # while it is held: afterwards it may be another process's
            held.release()
    finally:
        for parent in made:
            with suppress(OSError):  # it is not empty
                parent.rmdir()


@contextmanager
def _name_in_errors(path: Path) -> Iterator[None]:
    """Let a failure to write that names no file, such as on a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise InputError(f"cannot write to {path}: {error.strerror or error}") from error


def _acquire(held: BaseFileLock, file: Path, path: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
        file.write_text(f"{os.getpid()}\n")
    except Timeout:
        owner = file.read_text().strip() if file.exists() else ""
        raise InputError(
            f"another process (pid {owner or 'unknown'}) is writing to {path}: wait for it to end, "
            "or choose another name"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror}") from error


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends without an exception.

    `path` is locked meanwhile. What a killed process left of its temporary folder is removed.

    Raises:
        InputError: `path` exists and `overwrite` is False, or it holds nothing that
            this package wrote; another process writes to it; or its parent is not writable.
    """
    with lock(path):
        check_free(path, overwrite)
        with build_folder(path) as building:
            yield building


def check_free(path: Path, overwrite: bool) -> None:
    """Raise `InputError` unless `new_folder` could write to `path`, as far as it exists."""
    if path.is_mount():
        raise InputError(f"{path} is a mount point, which cannot be replaced: name a folder in it")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{path} exists already: use --overwrite or choose another name")
    if not any((path / name).is_file() for name in _MARKS):
        raise InputError(f"{path} was not written by this package: choose another name")


@contextmanager
def build_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` at the end; `path` must be locked."""
    real = path.resolve()
    building = real.parent / f".{real.name}.tmp"
    shutil.rmtree(building, ignore_errors=True)  # left by a killed process: the lock was free
    try:
        building.mkdir()
        yield building
        if real.exists():
            shutil.rmtree(real)
        os.replace(building, real)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` at the end and is removed after an exception.

    Raises:
        InputError: writing fails in the block, as on a full disk.
    """
    building = path.with_name(f".{path.name}.tmp")
    try:
        with _name_in_errors(path):
            yield building
        os.replace(building, path)
    except BaseException:
        with suppress(OSError):
            building.unlink()
        raise


def holds_files(path: Path) -> bool:
    """Return whether `path` is a file, or a folder with files that are not hidden."""
    if not path.is_dir():
        return path.exists()
    return any(not file.name.startswith(".") and not file.is_dir() for file in path.rglob("*"))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON to a temporary name and rename it to `path`."""
    with new_file(path) as building:
        building.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object, or raise `InputError` that calls the file `what`."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path.parent} is not a {what}: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): the {what} is damaged") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object: the {what} is damaged")
    return content
