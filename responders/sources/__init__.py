"""Readers of published raw logs: one file per format, each with a function `read`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from responders.errors import InputError, near_matches
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources import (
    amazon,
    contentwise,
    ebnerd,
    movielens,
    open_bandit,
    rl4rs,
    trec_session,
)

SOURCES: dict[str, Callable[..., SessionLog]] = {
    "contentwise": contentwise.read,
    "rl4rs": rl4rs.read,
    "trec-session": trec_session.read,
    "open-bandit": open_bandit.read,
    "ebnerd": ebnerd.read,
    "movielens": movielens.read,
    "amazon": amazon.read,
}
"""The readers by the name the command line gives them."""


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
        raw: the file or folder, see the source's own page.
        out: folder of the log; it appears when complete.
        catalogue: items whose index is kept; items new to it are appended (cold) and counted.
        overwrite: replace `out` where it exists.
        options: the source's own, such as min_slates.

    Raises:
        InputError: an unknown source or option, a missing file, or a fault in the raw data.
    """
    if source not in SOURCES:
        raise InputError(f"there is no source {source!r}; {near_matches(source, SOURCES)}")
    known = set(inspect.signature(SOURCES[source]).parameters) - {"raw", "out", "catalogue"}
    for name in options:
        if name not in known:
            raise InputError(f"{source} has no option {name!r}; {near_matches(name, known)}")
    if not Path(raw).exists():
        raise InputError(f"there is no file or folder {raw}: give the raw data of {source}")
    return SOURCES[source](Path(raw), Path(out), catalogue, overwrite=overwrite, **options)


__all__ = ["SOURCES", "convert"]
