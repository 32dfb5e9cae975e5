"""Tables too large for memory: written in row groups, sorted out of core, regrouped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from responders.errors import InputError
from responders.progress import progress_bar
from responders.sources._reading.parse import Ragged

GROUP = 1 << 15
"""Rows in a row group of a staged file."""

_MEMORY, _THREADS = "128MB", 1  # of the sort


class ParquetSink:
    """Write tables to a Parquet file in row groups of a fixed size, whatever theirs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ParquetSink:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, table: pa.Table) -> None:
        """Append a table; all have the schema of the first."""
        self._waiting.append(table)
        self._rows += len(table)
        if self._rows >= GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema, compression="lz4")
        self._writer.write_table(table, row_group_size=GROUP)
        self._waiting, self._rows = [], 0


def to_lists(values: np.ndarray, length: np.ndarray, dtype: Any) -> pa.Array:
    """Return n lists as an Arrow array."""
    offset = np.zeros(len(length) + 1, np.int32)
    np.cumsum(length, out=offset[1:])
    return pa.ListArray.from_arrays(pa.array(offset), pa.array(values.astype(dtype, copy=False)))


def flat(column: Any, dtype: Any) -> Ragged:
    """Return an Arrow column of lists as `Ragged`."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = np.asarray(column.flatten()).astype(dtype, copy=False)
    return Ragged(values, np.asarray(column.value_lengths()).astype(np.int64))


def sort_by(path: Path, columns: list[str], order: list[str], scratch: Path) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file sorted by `order`, out of core, some thousand at a time."""
    spill = scratch / f"sort-{path.stem}"
    spill.mkdir()
    config: dict[str, Any] = {
        "memory_limit": _MEMORY,
        "threads": _THREADS,
        "temp_directory": str(spill),
    }
    chosen, keys = (", ".join(f'"{c}"' for c in names) for names in (columns, order))
    try:
        with (
            pq.ParquetFile(path, pre_buffer=False) as file,
            duckdb.connect(config=config) as connection,
            progress_bar(
                total=file.metadata.num_rows, unit="row", unit_scale=True, desc="sort", leave=False
            ) as bar,
        ):
            schema = pa.schema([file.schema_arrow.field(c) for c in columns])
            batches = file.iter_batches(GROUP // 8, columns=columns)
            stream = (batch.select(columns) for batch in batches)
            connection.register("staged", pa.RecordBatchReader.from_batches(schema, stream))
            relation = connection.sql(f"SELECT {chosen} FROM staged ORDER BY {keys}")
            modern = getattr(relation, "to_arrow_reader", None)
            for batch in (modern or relation.fetch_arrow_reader)(GROUP // 4):
                bar.update(len(batch))
                yield pa.Table.from_batches([batch])
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"sorting in {scratch.parent.parent} failed ({reason}): is the disk full?"
        ) from error
    shutil.rmtree(spill, ignore_errors=True)


def whole_groups(tables: Iterator[pa.Table], key: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Regroup sorted tables so that no group is cut: yield (table, first row of each group)."""
    rest: pa.Table | None = None
    for table in tables:
        table = table if rest is None else pa.concat_tables([rest, table])
        first = _group_starts(table.column(key))
        if len(first) > 1:
            yield table.slice(0, first[-1]), first[:-1]
        rest = table.slice(first[-1])
    if rest is not None and len(rest):
        yield rest, _group_starts(rest.column(key))


def _group_starts(column: pa.ChunkedArray) -> np.ndarray:
    ids = column.to_numpy()
    return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
