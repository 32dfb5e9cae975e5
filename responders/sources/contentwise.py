"""ContentWise Impressions (CW10M): series that a video service recommended, and their use.

RAW is a folder with ``interactions.csv`` and ``impressions-direct-link.csv`` (plain or .gz), or
with the Parquet folders ``interactions/`` and ``impressions-direct-link/`` of the same columns.
A recommendation is a slate. A position is clicked if the user has an interaction with that series
under that recommendation. A session is all slates of a user, in the order of first interactions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from responders.errors import InputError
from responders.log.catalogue import Catalogue
from responders.log.ragged import offsets, owner
from responders.log.session_log import SessionLog
from responders.sources._reading.assemble import assemble
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk
from responders.sources._reading.files import find, need, raw_path
from responders.sources._reading.parquet import read_parquet
from responders.sources._reading.parse import Ragged, integer_lists, integers, microseconds
from responders.sources._reading.slates import Slates, SourceSpec
from responders.sources._reading.staged_table import StagedTable, flat, to_lists, whole_groups
from responders.sources._reading.text import read_text

_INTERACTIONS = ["utc_ts_milliseconds", "user_id", "series_id", "recommendation_id"]
_IMPRESSIONS = ["recommendation_id", "recommended_series_list"]
_COLUMNS = ["recommendation", "kind", "ms", "number", "user", "series", "file", "line", "item"]
_COUNTS = (
    "interactions_read",
    "interactions_without_recommendation",
    "interactions_of_unknown_recommendation",
    "interactions_of_another_user",
    "impressions_read",
    "impressions_without_interaction",
    "recommendation_series_groups",
    "groups_outside_the_list",
)


def read(
    raw: Path,
    out: Path,
    catalogue: Catalogue | None = None,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    min_slates: int = 3,
    max_slates: int | None = 100,
    max_positions: int | None = None,
) -> SessionLog:
    """Convert `raw` to the log `out`.

    An interaction makes no click if it has no recommendation (-1), one that is not in the
    impressions, or a series that its recommendation does not list; the card counts each case.

    Args:
        raw: the folder.
        out: folder of the log.
        catalogue: keep the index of these items; new items are appended.
        overwrite: replace `out` if it exists.
        chunk_rows: rows in memory at a time.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
        max_positions: later positions are cut off; None = as many as the widest slate has.
    """
    raw = raw_path(raw)
    interactions = _files(raw, "interactions")
    impressions = _files(raw, "impressions-direct-link")
    spec = SourceSpec(
        name="contentwise",
        source="ContentWise Impressions (CW10M), series recommended by a video service",
        licence="CC BY-NC-SA 4.0 by its authors' paper; not verified",
        options={
            "min_slates": min_slates,
            "max_slates": max_slates,
            "max_positions": max_positions,
        },
        min_slates=min_slates,
        max_slates=max_slates,
        max_positions=max_positions,
    )

    def slates(scratch: Path) -> Iterator[Slates]:
        joined = _Join(spec.counts, scratch, impressions)
        joined.stage(interactions, chunk_rows)
        return joined.slates()

    return assemble(spec, slates, Path(out), catalogue, overwrite)


def _files(raw: Path, name: str) -> list[Path]:
    """Return the one text file or the Parquet files of a table."""
    text = find(raw, f"{name}.csv")
    if text is not None:
        return [text]
    if (raw / name).is_dir():
        parts = sorted((raw / name).glob("*.parquet"), key=lambda p: (len(p.name), p.name))
        if not parts:
            raise InputError(f"{raw / name} has no *.parquet")
        return parts
    return [need(raw, f"{name}.csv", f"{name}/*.parquet")]


def _read(path: Path, columns: list[str], chunk_rows: int) -> Iterator[Chunk]:
    if path.suffix == ".parquet":
        return read_parquet(path, columns, index=columns[0], chunk_rows=chunk_rows)
    return read_text(path, columns, chunk_rows=chunk_rows)


class _Join:
    """Impressions and interactions, joined by one sort on their recommendation.

    Both are staged in one table. Sorted, each impression (kind 0) is followed by its
    interactions (kind 1) in the order of their times. A join that collects the interactions of a
    recommendation in a list would need memory for all of them.
    """

    def __init__(self, counts: dict[str, int], scratch: Path, impressions: list[Path]) -> None:
        self.counts, self.paths = counts, impressions
        self.table = StagedTable(scratch / "joined.arrow")
        counts |= dict.fromkeys(_COUNTS, 0)

    def stage(self, interactions: list[Path], chunk_rows: int) -> None:
        """Read the files of impressions and interactions."""
        with self.table as table:
            for number, path in enumerate(self.paths):
                for chunk in _read(path, _IMPRESSIONS, chunk_rows):
                    table.add(self._impressions(chunk, number))
            for path in interactions:
                for chunk in _read(path, _INTERACTIONS, chunk_rows):
                    table.add(self._interactions(chunk))

    def _impressions(self, chunk: Chunk, file: int) -> pa.Table:
        item = integer_lists(chunk, "recommended_series_list", separator=None)
        self.counts["impressions_read"] += len(chunk)
        zero = np.zeros(len(chunk), np.int64)
        return _table(
            recommendation=integers(chunk, "recommendation_id"),
            kind=zero.astype(np.int8),
            file=np.full(len(chunk), file, np.int16),
            line=chunk.line,
            item=to_lists(item.values, item.length, np.int64),
            **dict.fromkeys(("ms", "number", "user", "series"), zero),
        )

    def _interactions(self, chunk: Chunk) -> pa.Table:
        if pa.types.is_timestamp(chunk.column("utc_ts_milliseconds").type):
            ms = microseconds(chunk, "utc_ts_milliseconds") // 1000
        else:
            ms = integers(chunk, "utc_ts_milliseconds")
        message = "time {} is negative; give milliseconds since 1970"
        chunk.reject(ms < 0, message, ms, column="utc_ts_milliseconds")
        recommendation = integers(chunk, "recommendation_id")
        n, first = len(chunk), self.counts["interactions_read"]
        zero = np.zeros(n, np.int64)
        table = _table(
            recommendation=recommendation,
            kind=np.ones(n, np.int8),
            ms=ms,
            number=np.arange(first, first + n),
            user=integers(chunk, "user_id"),
            series=integers(chunk, "series_id"),
            file=zero.astype(np.int16),
            line=chunk.line,
            item=to_lists(zero[:0], zero, np.int64),
        )
        linked = recommendation != -1
        self.counts["interactions_read"] += n
        self.counts["interactions_without_recommendation"] += int((~linked).sum())
        return table.filter(pa.array(linked))

    def slates(self) -> Iterator[Slates]:
        """Yield the slates that have an interaction."""
        ordered = self.table.sorted(["recommendation", "kind", "ms", "number"])
        for table, length in whole_groups(ordered, "recommendation"):
            kind, first = table.column("kind").to_numpy(), offsets(length)[:-1]
            self._check(table, kind, first)
            is_listed = kind[first] == 0
            is_used = is_listed & (length > 1)
            self.counts["interactions_of_unknown_recommendation"] += int(length[~is_listed].sum())
            self.counts["impressions_without_interaction"] += int((is_listed & ~is_used).sum())
            if is_used.any():
                table = table.filter(pa.array(np.repeat(is_used, length)))
                yield from self._slates(table, length[is_used])
        self.table.path.unlink()

    def _check(self, table: pa.Table, kind: np.ndarray, first: np.ndarray) -> None:
        repeated = kind == 0
        repeated[first] = False
        if repeated.any():
            row = table.slice(int(np.argmax(repeated)), 1).to_pylist()[0]
            path = self.paths[row["file"]]
            raise InputError(
                f"{path}, {_unit(path)} {row['line']}: recommendation_id {row['recommendation']} "
                "is listed twice; remove one of the rows"
            )

    def _slates(self, table: pa.Table, length: np.ndarray) -> Iterator[Slates]:
        """Yield the slates of whole groups: an impression and `length` - 1 interactions each."""
        first = offsets(length)[:-1]
        item = flat(table.column("item").take(pa.array(first)), np.int64)
        is_interaction = table.column("kind").to_numpy() == 1
        group = owner(length)[is_interaction]
        series, user = (table.column(c).to_numpy() for c in ("series", "user"))
        first_user, ms = user[first + 1], table.column("ms").to_numpy()[first + 1]
        click = self._clicks(item, group, series[is_interaction])
        others = user[is_interaction] != first_user[group]
        self.counts["interactions_of_another_user"] += int(others.sum())
        file, line = (table.column(c).to_numpy()[first] for c in ("file", "line"))
        for number in np.unique(file):
            of_file = file == number
            position = np.repeat(of_file, item.length)
            yield Slates(
                path=self.paths[number],
                line=line[of_file],
                session=first_user[of_file],
                time=ms[of_file] // 1000,
                tie_breaker=ms[of_file],
                item=Ragged(item.values[position], item.length[of_file]),
                click=click[position],
                unit=_unit(self.paths[number]),
            )

    def _clicks(self, item: Ragged, group: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Return 1 for each position whose series is among those used in its group: [m] int64."""
        shown, used = item.pairs(group, series)
        used = np.unique(used)
        self.counts["recommendation_series_groups"] += len(used)
        self.counts["groups_outside_the_list"] += int((~np.isin(used, shown)).sum())
        return np.isin(shown, used).astype(np.int64)


def _table(**columns: Any) -> pa.Table:
    return pa.table({name: columns[name] for name in _COLUMNS})


def _unit(path: Path) -> str:
    return "row" if path.suffix == ".parquet" else "line"
