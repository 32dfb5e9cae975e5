"""ContentWise Impressions (CW10M): rows of series a video service recommended, and their use.

RAW is a folder with ``interactions.csv`` and ``impressions-direct-link.csv`` (plain or .gz), or
with the Parquet folders ``interactions/`` and ``impressions-direct-link/`` of the same columns.
A recommendation is a slate; a position is clicked if its user has an interaction with that
series under that recommendation; a session is all slates of a user, by first interaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from responders.errors import InputError
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources._reading.build import build
from responders.sources._reading.files import find, need
from responders.sources._reading.parse import Ragged, integer_lists, integers, microseconds
from responders.sources._reading.raw import CHUNK_ROWS, Chunk, read_parquet, read_text
from responders.sources._reading.slates import Slates, Spec
from responders.sources._reading.staging import ParquetSink, flat, sort_by, to_lists, whole_groups

_INTERACTIONS = ["utc_ts_milliseconds", "user_id", "series_id", "recommendation_id"]
_IMPRESSIONS = ["recommendation_id", "recommended_series_list"]
_COLUMNS = ["recommendation", "kind", "ms", "number", "user", "series", "file", "line", "item"]


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

    Interactions without a recommendation (-1), with one that is not in the impressions, or with a
    series that its recommendation does not list, make no click; the card counts each.

    Args:
        raw: the folder.
        out: folder of the log.
        catalogue: items whose index is kept; new ones are appended.
        overwrite: replace `out` where it exists.
        chunk_rows: rows read at a time.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
        max_positions: positions beyond so many are cut off; None = as wide as the widest slate.
    """
    raw = Path(raw)
    interactions = _files(raw, "interactions")
    impressions = _files(raw, "impressions-direct-link")
    spec = Spec(
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
        joined.stage(interactions, impressions, chunk_rows)
        return joined.slates()

    return build(spec, slates, Path(out), catalogue, overwrite)


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

    Both go into one Parquet file; sorted, each impression (kind 0) is followed by its
    interactions (kind 1) in the order of their times.
    """

    def __init__(self, counts: dict[str, int], scratch: Path, impressions: list[Path]) -> None:
        self.counts, self.scratch, self.paths = counts, scratch, impressions
        self.staged = scratch / "joined.parquet"
        for name in (
            "interactions_read",
            "interactions_without_recommendation",
            "interactions_of_unknown_recommendation",
            "interactions_of_another_user",
            "impressions_read",
            "impressions_without_interaction",
            "recommendation_series_groups",
            "groups_outside_the_list",
        ):
            counts[name] = 0

    def stage(self, interactions: list[Path], impressions: list[Path], chunk_rows: int) -> None:
        """Read both tables into one file."""
        with ParquetSink(self.staged) as sink:
            for number, path in enumerate(impressions):
                for chunk in _read(path, _IMPRESSIONS, chunk_rows):
                    sink.add(self._impressions(chunk, number))
            for path in interactions:
                for chunk in _read(path, _INTERACTIONS, chunk_rows):
                    sink.add(self._interactions(chunk))

    def _impressions(self, chunk: Chunk, file: int) -> pa.Table:
        item = integer_lists(chunk, "recommended_series_list", separator=None)
        self.counts["impressions_read"] += len(chunk)
        zero = np.zeros(len(chunk), np.int64)
        return _table(
            recommendation=integers(chunk, "recommendation_id"),
            kind=zero.astype(np.int8),
            file=zero.astype(np.int16) + np.int16(file),
            line=chunk.line,
            item=to_lists(item.values, item.length, np.int64),
            **dict.fromkeys(("ms", "number", "user", "series"), zero),
        )

    def _interactions(self, chunk: Chunk) -> pa.Table:
        if pa.types.is_timestamp(chunk.column("utc_ts_milliseconds").type):
            ms = microseconds(chunk, "utc_ts_milliseconds") // 1000
        else:
            ms = integers(chunk, "utc_ts_milliseconds")
        if (ms < 0).any():
            row = int(np.argmax(ms < 0))
            raise chunk.fault(row, f"time {ms[row]} is negative", "utc_ts_milliseconds")
        recommendation = integers(chunk, "recommendation_id")
        n, first = len(chunk), self.counts["interactions_read"]
        table = _table(
            recommendation=recommendation,
            kind=np.ones(n, np.int8),
            ms=ms,
            number=np.arange(first, first + n),
            user=integers(chunk, "user_id"),
            series=integers(chunk, "series_id"),
            file=np.zeros(n, np.int16),
            line=chunk.line,
            item=to_lists(np.zeros(0, np.int64), np.zeros(n, np.int64), np.int64),
        )
        linked = recommendation != -1
        self.counts["interactions_read"] += n
        self.counts["interactions_without_recommendation"] += int((~linked).sum())
        return table.filter(pa.array(linked))

    def slates(self) -> Iterator[Slates]:
        """Yield the slates that have an interaction."""
        order = ["recommendation", "kind", "ms", "number"]
        ordered = sort_by(self.staged, _COLUMNS, order, self.scratch)
        for table, first in whole_groups(ordered, "recommendation"):
            kind = table.column("kind").to_numpy()
            self._check(table, kind, first)
            length = np.diff(np.append(first, len(table)))
            listed = kind[first] == 0
            used = listed & (length > 1)
            self.counts["interactions_of_unknown_recommendation"] += int(length[~listed].sum())
            self.counts["impressions_without_interaction"] += int((listed & ~used).sum())
            if used.any():
                table = table.filter(pa.array(np.repeat(used, length)))
                length = length[used]
                yield from self._slates(table, np.cumsum(length) - length, length)
        self.staged.unlink()

    def _check(self, table: pa.Table, kind: np.ndarray, first: np.ndarray) -> None:
        again = kind == 0
        again[first] = False
        if again.any():
            row = table.slice(int(np.argmax(again)), 1).to_pylist()[0]
            unit = "row" if self.paths[row["file"]].suffix == ".parquet" else "line"
            raise InputError(
                f"{self.paths[row['file']]}, {unit} {row['line']}: recommendation_id "
                f"{row['recommendation']} is listed twice; leave one of them out"
            )

    def _slates(self, table: pa.Table, first: np.ndarray, length: np.ndarray) -> Iterator[Slates]:
        item = flat(table.column("item").take(pa.array(first)), np.int64)
        used = np.ones(len(table), bool)
        used[first] = False
        group = np.repeat(np.arange(len(first)), length)[used]
        series, user = (table.column(c).to_numpy() for c in ("series", "user"))
        owner, ms = user[first + 1], table.column("ms").to_numpy()[first + 1]
        click = self._clicks(item, group, series[used])
        self.counts["interactions_of_another_user"] += int((user[used] != owner[group]).sum())
        file, line = (table.column(c).to_numpy()[first] for c in ("file", "line"))
        for number in np.unique(file):
            here = file == number
            inside = np.repeat(here, item.length)
            path = self.paths[number]
            yield Slates(
                path=path,
                line=line[here],
                session=owner[here],
                time=ms[here] // 1000,
                fine=ms[here],
                item=Ragged(item.values[inside], item.length[here]),
                click=click[inside],
                unit="row" if path.suffix == ".parquet" else "line",
            )

    def _clicks(self, item: Ragged, group: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Return [m] int64, 1 where a slate's item is among the series used in its group."""
        shown, used = item.pairs(group, series)
        used = np.unique(used)
        self.counts["recommendation_series_groups"] += len(used)
        self.counts["groups_outside_the_list"] += int((~np.isin(used, shown)).sum())
        return np.isin(shown, used).astype(np.int64)


def _table(**columns: Any) -> pa.Table:
    return pa.table({name: columns[name] for name in _COLUMNS})
