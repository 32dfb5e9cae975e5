"""Web search sessions in the format that click models use (TREC Session track 2014).

RAW is one file ``*_per_query_quid.txt[.gz]`` or a folder of them. A line is ``session_id TAB
query_id TAB [document ids] TAB [vertical types] TAB [clicks]``; the lines of a session are
consecutive and in order. A document id of 0 is an empty position.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from responders.errors import InputError
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources._reading.assemble import assemble
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk
from responders.sources._reading.files import find, raw_path
from responders.sources._reading.parse import Ragged, integer_lists, integers
from responders.sources._reading.slates import NO_ITEM, Slates, SourceSpec
from responders.sources._reading.text import read_text

_NAMES = ["session_id", "query_id", "documents", "verticals", "clicks"]
_SUFFIX = "_per_query_quid.txt"


def read(
    raw: Path,
    out: Path,
    catalogue: Catalogue | None = None,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    min_slates: int = 1,
    max_slates: int | None = None,
) -> SessionLog:
    """Convert `raw` to the log `out`; every session is a user of its own.

    In a folder, the train and valid files are read as one log; the test file is never read.

    Args:
        raw: the file or folder.
        out: folder of the log.
        catalogue: keep the index of these items; new items are appended.
        overwrite: replace `out` if it exists.
        chunk_rows: rows in memory at a time.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
    """
    paths = _files(raw_path(raw))
    spec = SourceSpec(
        name="trec-session",
        source="web search sessions with clicks (TREC Session track 2014, inferred)",
        licence="repository MIT; the track's own terms not verified",
        options={"min_slates": min_slates, "max_slates": max_slates},
        min_slates=min_slates,
        max_slates=max_slates,
        has_time=False,
        consecutive=True,
        notes={"time": "the number of the slate in its session; the source has no times"},
    )

    def slates(scratch: Path) -> Iterator[Slates]:
        ids_collide = len(paths) > 1 and _collide(paths, chunk_rows)
        if ids_collide:
            spec.notes["users"] = "FILE/SESSION: session ids occur in more than one file"
        for path in paths:
            for chunk in _chunks(path, list(_NAMES), chunk_rows):
                yield _slates(chunk, path.name.split("_")[0] if ids_collide else None)

    return assemble(spec, slates, Path(out), catalogue, overwrite)


def _files(raw: Path) -> list[Path]:
    if not raw.is_dir():
        return [raw]
    train = find(raw, f"train{_SUFFIX}")
    if train is not None:
        valid = find(raw, f"valid{_SUFFIX}")
        return [train] if valid is None else [train, valid]
    found = sorted(p for p in raw.glob(f"*{_SUFFIX}*") if p.suffix in (".txt", ".gz"))
    if len(found) == 1:
        return found
    names = ", ".join(p.name for p in found) or "none"
    raise InputError(
        f"{raw} has no train{_SUFFIX}[.gz] and not exactly one *{_SUFFIX}[.gz] (found: {names})"
    )


def _chunks(path: Path, columns: list[str], chunk_rows: int) -> Iterator[Chunk]:
    return read_text(
        path, columns, separator="\t", names=_NAMES, quoted=False, chunk_rows=chunk_rows
    )


def _collide(paths: list[Path], chunk_rows: int) -> bool:
    """Return whether a session id occurs in more than one file."""
    seen = np.zeros(0, np.int64)
    for path in paths:
        chunks = _chunks(path, ["session_id"], chunk_rows)
        ids = np.unique(np.concatenate([np.unique(integers(c, "session_id")) for c in chunks]))
        if np.isin(ids, seen).any():
            return True
        seen = np.union1d(seen, ids)
    return False


def _slates(chunk: Chunk, prefix: str | None) -> Slates:
    session: Any = integers(chunk, "session_id")
    item, click = integer_lists(chunk, "documents"), integer_lists(chunk, "clicks")
    message = "{} clicks for {} documents; correct the line"
    differ = item.length != click.length
    chunk.reject(differ, message, click.length, item.length, column="clicks")
    if prefix is not None:
        session = np.array([f"{prefix}/{i}" for i in session.tolist()], dtype=object)
    return Slates(
        path=chunk.path,
        line=chunk.line,
        session=session,
        time=np.zeros(len(chunk), np.int64),
        item=Ragged(np.where(item.values == 0, NO_ITEM, item.values), item.length),
        click=click.values,
    )
