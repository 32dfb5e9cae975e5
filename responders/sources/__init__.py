"""Readers that convert published raw logs to a `SessionLog`; one module per format."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from responders.errors import InputError, near_matches
from responders.registry import load
from responders.sources._reading.files import raw_path
from responders.sources.registry import SOURCES

if TYPE_CHECKING:  # PyTorch, pandas and pyarrow are imported with the reader
    from responders.log.catalogue import Catalogue
    from responders.log.session_log import SessionLog

_OF_CONNECTIONS = ("botocore", "aiohttp", "google", "gcsfs", "azure")
"""The packages whose errors are no `OSError` where a connection to a store breaks."""


def convert(
    source: str,
    raw: str | Path,
    out: str | Path,
    catalogue: Catalogue | None = None,
    overwrite: bool = False,
    **options: Any,
) -> SessionLog:
    """Convert the raw files at `raw` to a log in the folder `out`, and load it.

    Args:
        source: a key of `SOURCES`.
        raw: the file or folder, or its URL in an object store; see the docstring of the source's
            module.
        out: local folder of the log; it appears when it is complete.
        catalogue: keep the index of these items; new items are appended to it and counted.
        overwrite: replace `out` if it exists.
        options: options of the source's `read`, such as min_slates.

    Raises:
        InputError: the source or an option is unknown, a file is missing or cannot be reached,
            `out` is a URL, or the raw data has a fault.
    """
    read = load(SOURCES, source, "source")
    known = set(inspect.signature(read).parameters) - {"raw", "out", "catalogue"}
    for name in options:
        if name not in known:
            raise InputError(f"{source} has no option {name!r}; {near_matches(name, known)}")
    first = Path(out).parts[:1]
    if first and first[0].endswith(":") and len(first[0]) > 2:  # a URL, and no drive of Windows
        raise InputError(f"a log is written to a local folder, not to {out}: copy it afterwards")
    path = raw_path(raw)
    if not path.exists():
        raise InputError(f"there is no file or folder {raw}: give the raw data of {source}")
    try:
        log: SessionLog = read(path, Path(out), catalogue, overwrite=overwrite, **options)
    except Exception as error:
        if "://" in str(raw) and type(error).__module__.partition(".")[0] in _OF_CONNECTIONS:
            raise InputError(f"{raw} was not read to its end: {error}; try again") from error
        raise
    return log


__all__ = ["SOURCES", "convert"]
