"""The trials of leaderboards as files: what has a file is done, so that a killed run continues."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agents.finding import Entry, PolicySource
from benchmarks.studies.trials import run_stored
from benchmarks.workers import Workers, run_cases
from responders import InputError
from responders.errors import first_fault
from responders.files import read_json
from responders.progress import progress_bar

Stored = TypeVar("Stored", bound=BaseModel)
Case = tuple[Any, ...]
"""The arguments after the path of what runs a trial, such as `run_stored`."""


@contextmanager
def folder_of_trials(out: str | Path | None) -> Iterator[Path]:
    """Yield the folder of the finished trials, which is removed when all of them are done."""
    if out is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    real = Path(out).resolve()
    folder = real.parent / f".{real.name}.trials"
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # it is not empty
            folder.rmdir()
        raise
    shutil.rmtree(folder)


def file_of(entry: Entry, seed: int, key: str) -> str:
    """Return the name of a trial's file, which no other trial has."""
    digest = sha256(f"{key} {entry.fingerprint}".encode()).hexdigest()[:16]
    return f"{entry.name}-{seed}-{digest}.json"


def load_stored(path: Path, kind: type[Stored]) -> Stored:
    """Return the trial in a file.

    Raises:
        InputError: it is damaged.
    """
    try:
        return kind.model_validate(read_json(path, "trial"))
    except ValidationError as error:
        raise InputError(f"{path}, {first_fault(error)}; it is damaged: delete the file") from None


def run_missing(
    cases: Mapping[Path, Case],
    workers: Workers,
    progress: bool,
    run: Callable[..., None] = run_stored,
    label: str = "leaderboard",
) -> None:
    """Run the trials that have no file yet, each by `run` with its path and arguments."""
    missing = {path: (path, *values) for path, values in cases.items() if not path.exists()}
    done = len(cases) - len(missing)
    if not workers.here:
        for source, *_ in cases.values():
            _check_picklable(source)
        for _ in run_cases(run, missing, workers, label=label, done=done, progress=progress):
            pass
        return
    with progress_bar(total=len(cases), initial=done, desc=label, disable=not progress) as bar:
        for path, values in missing.items():
            bar.set_postfix_str(path.name.rsplit("-", 1)[0], refresh=False)
            run(*values)
            bar.update()


def _check_picklable(source: PolicySource) -> None:
    try:
        pickle.dumps(source)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(
            f"{source} cannot be sent to other processes ({error}): use jobs=1, or give "
            "FILE.py:Class or the folder of a saved policy"
        ) from error
