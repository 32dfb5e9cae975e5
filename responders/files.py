"""Writing folders and JSON files so that nothing incomplete is left behind."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from responders.errors import InputError


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends without an exception.

    Raises:
        InputError: `path` exists and `overwrite` is False, or its parent is not writable.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: choose another name or remove it first")
    building = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        building.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror}") from error
    try:
        yield building
        if path.exists():
            shutil.rmtree(path)
        os.replace(building, path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # somebody else may have written there
                parent.rmdir()
        raise


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON to a temporary name and rename it to `path`."""
    building = path.with_name(path.name + ".tmp")
    building.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(building, path)


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
