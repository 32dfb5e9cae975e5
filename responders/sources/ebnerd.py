"""EB-NeRD (Ekstra Bladet): slates of news articles in sessions, with clicks and times.

RAW is a folder with ``behaviors.parquet``, or that file. The past clicks of ``history.parquet``
have no slates; the source ``ebnerd-history`` reads them as a log of their own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources._reading.assemble import assemble
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk
from responders.sources._reading.files import need, raw_path
from responders.sources._reading.parquet import read_parquet
from responders.sources._reading.parse import Ragged, integer_lists, integers, microseconds
from responders.sources._reading.slates import Slates, SourceSpec

_COLUMNS = [
    "impression_time",
    "article_ids_inview",
    "article_ids_clicked",
    "user_id",
    "session_id",
]
_HISTORY = ["user_id", "article_id_fixed", "impression_time_fixed"]
_LICENCE = "repository MIT; EB-NeRD's own terms not verified"


def read(
    raw: Path,
    out: Path,
    catalogue: Catalogue | None = None,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    min_slates: int = 1,
    max_slates: int | None = None,
    max_positions: int | None = None,
) -> SessionLog:
    """Convert `raw` to the log `out`.

    Args:
        raw: the folder, or behaviors.parquet.
        out: folder of the log.
        catalogue: keep the index of these items; new items are appended.
        overwrite: replace `out` if it exists.
        chunk_rows: rows in memory at a time.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
        max_positions: later positions are cut off; None = as many as the widest slate has.
    """
    raw = raw_path(raw)
    path = need(raw, "behaviors.parquet") if raw.is_dir() else raw
    options = {
        "min_slates": min_slates,
        "max_slates": max_slates,
        "max_positions": max_positions,
    }
    spec = SourceSpec(
        name="ebnerd",
        source="EB-NeRD, articles in view on a news site",
        licence=_LICENCE,
        options=options,
        min_slates=min_slates,
        max_slates=max_slates,
        max_positions=max_positions,
        notes={"left_out": "history.parquet: past clicks, see ebnerd-history"},
    )
    chunks = read_parquet(path, _COLUMNS, chunk_rows=chunk_rows)
    slates = map(_slates, chunks)
    return assemble(spec, lambda _: slates, Path(out), catalogue, overwrite)


def _slates(chunk: Chunk) -> Slates:
    item = integer_lists(chunk, "article_ids_inview")
    clicked = integer_lists(chunk, "article_ids_clicked")
    shown, chosen = item.pairs(clicked.owner, clicked.values)
    outside = ~np.isin(chosen, shown)
    if outside.any():
        at = int(np.argmax(outside))
        message = f"article {clicked.values[at]} is clicked and not in view; correct the row"
        raise chunk.fault(int(clicked.owner[at]), message, "article_ids_clicked")
    micro = microseconds(chunk, "impression_time")
    return Slates(
        path=chunk.path,
        line=chunk.line,
        session=integers(chunk, "session_id"),
        user=integers(chunk, "user_id"),
        time=micro // 1_000_000,
        tie_breaker=micro,
        item=item,
        click=np.isin(shown, chosen).astype(np.int64),
        unit="row",
    )


def read_history(
    raw: Path,
    out: Path,
    catalogue: Catalogue | None = None,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
) -> SessionLog:
    """Convert the past clicks: a session is a user, a slate one article, clicked.

    Args:
        raw: the folder, or history.parquet.
        out: folder of the log.
        catalogue: keep the index of these items; new items are appended.
        overwrite: replace `out` if it exists.
        chunk_rows: users in memory at a time.
    """
    raw = raw_path(raw)
    path = need(raw, "history.parquet") if raw.is_dir() else raw
    spec = SourceSpec(
        name="ebnerd-history",
        source="EB-NeRD, articles that users of a news site had clicked before",
        licence=_LICENCE,
        notes={"slates": "one item each: what was clicked, not what was shown"},
    )
    clicks = map(_past_clicks, read_parquet(path, _HISTORY, chunk_rows=chunk_rows))
    return assemble(spec, lambda _: clicks, Path(out), catalogue, overwrite)


def _past_clicks(chunk: Chunk) -> Slates:
    article, time = (chunk.column(name) for name in _HISTORY[1:])
    length = np.asarray(pc.fill_null(pc.list_value_length(article), 0))
    times = np.asarray(pc.fill_null(pc.list_value_length(time), 0))
    chunk.reject(times != length, "{} times for another number of articles", times)
    lists = [chunk.column("user_id").take(np.repeat(np.arange(len(length)), length))]
    lists += [pc.list_flatten(article), pc.list_flatten(time)]
    flat = Chunk(chunk.path, pa.table(lists, names=_HISTORY), np.repeat(chunk.line, length), "row")
    micro = microseconds(flat, _HISTORY[2])
    return Slates(
        path=flat.path,
        line=flat.line,
        session=integers(flat, "user_id"),
        time=micro // 1_000_000,
        tie_breaker=micro,
        item=Ragged(integers(flat, _HISTORY[1]), np.ones(len(micro), np.int64)),
        click=np.ones(len(micro), np.int64),
        unit="row",
    )
