"""Chunks of rows that know where they are in their file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from responders.errors import InputError, near_matches

CHUNK_ROWS = 1 << 15
"""Rows of a chunk at most."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file.

    Args:
        path: the file.
        table: the columns asked for, n rows; all strings if the file is text.
        line: [n] int64, the line of the file where a row begins (from 1), or the row of a table
            (from 0).
        unit: "line" or "row", what `line` counts.
    """

    path: Path
    table: pa.Table
    line: np.ndarray
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.line)

    @staticmethod
    def whole(chunks: Iterable[Chunk]) -> Chunk:
        """Return all chunks of a small file as one."""
        parts = list(chunks)
        table = pa.concat_tables([part.table for part in parts])
        line = np.concatenate([part.line for part in parts])
        return Chunk(parts[0].path, table, line, parts[0].unit)

    def column(self, name: str) -> pa.Array:
        """Return the column as one array."""
        column = self.table.column(name)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def fault(self, row: int, message: str, column: str | None = None) -> InputError:
        """Return the error for a row of the chunk, with file, line and column."""
        where = f", column {column}" if column else ""
        return InputError(f"{self.path}, {self.unit} {int(self.line[row])}{where}: {message}")

    def reject(
        self, bad: np.ndarray, message: str, *values: np.ndarray, column: str | None = None
    ) -> None:
        """Raise `InputError` at the first row that is bad, if there is one.

        Args:
            bad: [n] bool.
            message: what is wrong and how to fix it; each {} stands for the row's entry of one of
                `values`.
            values: arrays [n].
            column: the column to name.
        """
        if bad.any():
            row = int(np.argmax(bad))
            raise self.fault(row, message.format(*(v[row] for v in values)), column)


def check_columns(path: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise `InputError` for the first wanted column that the file lacks or has twice."""
    for name in wanted:
        if name not in found:
            message = f"{path} has no column {name!r}: it has {', '.join(found)}; "
            message += near_matches(name, found)
            raise InputError(message.replace("\n", " "))
        if list(found).count(name) > 1:
            raise InputError(f"{path} has two columns {name!r}: remove one of them")
