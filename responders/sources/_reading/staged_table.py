"""Tables too large for memory: staged in Arrow files, sorted by DuckDB, regrouped."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from responders.errors import InputError
from responders.log import ragged
from responders.progress import progress_bar
from responders.sources._reading.parse import Ragged

_MEMORY, _THREADS = "128MB", 1  # of a sort
_STAGED_ROWS, _SORTED_ROWS = 1 << 15, 1 << 13  # rows read from a file or a sort at a time


class StagedTable:
    """Append tables with one schema to a file; use as a context manager.

    The file is an Arrow stream: cheaper to write than Parquet, and read batch by batch.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self.columns: list[str] = []
        self._writer: pa.RecordBatchStreamWriter | None = None

    def __enter__(self) -> StagedTable:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, table: pa.Table) -> None:
        """Append a table."""
        if self._writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_stream(str(self.path), table.schema, options=options)
            self.columns = table.column_names
        self._writer.write_table(table, _STAGED_ROWS)
        self.rows += len(table)

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Yield the rows in the order of writing, `rows` at a time; the last are what is left."""
        rest: pa.Table | None = None
        with pa.OSFile(str(self.path)) as file:
            for batch in pa.ipc.open_stream(file):
                table = pa.Table.from_batches([batch])
                rest = table if rest is None else pa.concat_tables([rest, table])
                while len(rest) >= rows:
                    yield rest.slice(0, rows)
                    rest = rest.slice(rows)
        if rest is not None and len(rest):
            yield rest

    def sorted(
        self,
        order: list[str],
        columns: list[str] | None = None,
        integers: Collection[str] = (),
    ) -> Iterator[pa.Table]:
        """Yield the rows in the order of some columns, some thousand at a time.

        The columns `integers` are text that is read as int64.
        DuckDB sorts in bounded memory; what does not fit goes to a folder next to the file.
        """
        spill = self.path.with_suffix(".sort")
        config: dict[str, Any] = {"memory_limit": _MEMORY, "threads": _THREADS}

        def column(name: str) -> str:
            return f'CAST("{name}" AS BIGINT)' if name in integers else f'"{name}"'

        chosen = ", ".join(f'{column(c)} AS "{c}"' for c in columns or self.columns)
        keys = ", ".join(map(column, order))
        bar = progress_bar(total=self.rows, unit="row", unit_scale=True, desc="sort", leave=False)
        try:
            with (
                pa.OSFile(str(self.path)) as file,
                duckdb.connect(config=config | {"temp_directory": str(spill)}) as connection,
                bar,
            ):
                connection.register("staged", pa.ipc.open_stream(file))
                rows = connection.sql(f"SELECT {chosen} FROM staged ORDER BY {keys}")
                modern = getattr(rows, "to_arrow_reader", None)
                for batch in (modern or rows.fetch_arrow_reader)(_SORTED_ROWS):
                    bar.update(len(batch))
                    yield pa.Table.from_batches([batch])
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"sorting in {self.path.parent} failed ({reason}): is the disk full?"
            ) from error
        finally:
            shutil.rmtree(spill, ignore_errors=True)


def to_lists(values: np.ndarray, length: np.ndarray, dtype: Any) -> pa.Array:
    """Return n lists, given their values [m] and lengths [n], as an Arrow array."""
    offset = pa.array(ragged.offsets(length).astype(np.int32))
    return pa.ListArray.from_arrays(offset, pa.array(values.astype(dtype, copy=False)))


def flat(column: Any, dtype: Any) -> Ragged:
    """Return an Arrow column of lists as `Ragged`."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = np.asarray(column.flatten()).astype(dtype, copy=False)
    return Ragged(values, np.asarray(column.value_lengths()).astype(np.int64))


def whole_groups(tables: Iterator[pa.Table], *keys: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Regroup tables sorted by `keys` so that no group of equal keys is cut.

    Yields:
        A table of g whole groups and the number of rows in each, [g] int64.
    """
    rest: pa.Table | None = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        ids = [rest.column(key).to_numpy() for key in keys]
        differs = np.any([column[1:] != column[:-1] for column in ids], axis=0)
        start = np.flatnonzero(np.concatenate([[True], differs]))
        if len(start) > 1:
            yield rest.slice(0, start[-1]), np.diff(start)
            rest = rest.slice(start[-1])
    if rest is not None:
        yield rest, np.array([len(rest)])
