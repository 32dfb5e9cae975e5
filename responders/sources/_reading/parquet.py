"""Stream Parquet files as chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from responders.errors import InputError
from responders.progress import progress_bar
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk, check_columns
from responders.sources._reading.files import existing_file

_PANDAS_INDEX = "__index_level_0__"


def read_parquet(
    path: Path,
    columns: Sequence[str],
    *,
    index: str | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[Chunk]:
    """Yield the rows of a Parquet file.

    Args:
        path: the file.
        columns: the columns to keep.
        index: the column that may be stored as the unnamed index of a pandas frame.
        chunk_rows: rows of a chunk at most.

    Raises:
        InputError: the file is missing or damaged, or lacks a column.
    """
    existing_file(path)
    first = 0
    bar = progress_bar(unit="row", unit_scale=True, desc=path.name, leave=False)
    try:
        with path.open("rb") as raw, pq.ParquetFile(raw, pre_buffer=False) as file, bar:
            bar.total = file.metadata.num_rows
            stored = list(file.schema_arrow.names)
            alias = {}
            if index is not None and index not in stored and _PANDAS_INDEX in stored:
                alias = {index: _PANDAS_INDEX}
                stored[stored.index(_PANDAS_INDEX)] = index
            check_columns(path, columns, stored)
            names = [alias.get(n, n) for n in columns]
            for batch in file.iter_batches(max(1, chunk_rows), columns=names):
                table = pa.Table.from_batches([batch]).select(names).rename_columns(list(columns))
                line = np.arange(first, first + len(batch))
                first += len(batch)
                bar.update(len(batch))
                yield Chunk(path, table, line, "row")
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} cannot be read as Parquet ({reason}): download it again"
        ) from error
