"""Streaming readers of raw files: chunks of rows that know their line numbers.

A chunk is a few megabytes whatever the size of the file. Every fault is one `InputError` naming
file, line, column and value; the work on a row is vectorised, only errors are sought one by one.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from responders.errors import InputError, near_matches
from responders.progress import progress_bar
from responders.sources._reading.files import existing_file

CHUNK_ROWS = 1 << 15
_BLOCK = 1 << 22  # bytes read at a time
_LONGEST = 1 << 26  # bytes of the longest record believed


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file.

    Args:
        path: the file.
        table: the columns asked for, n rows; all strings where the file is text.
        line: [n] int64, line of the file a row begins in (from 1), or row of a table (from 0).
        unit: "line" or "row", what `line` counts.
    """

    path: Path
    table: pa.Table
    line: np.ndarray
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.line)

    def column(self, name: str) -> pa.Array:
        """Return the column as one array."""
        column = self.table.column(name)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def fault(self, row: int, what: str, column: str | None = None) -> InputError:
        """Return the error that `what` is wrong in `row` of the chunk."""
        where = f", column {column}" if column else ""
        return InputError(f"{self.path}, {self.unit} {int(self.line[row])}{where}: {what}")


def check_columns(path: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise `InputError` for the first wanted column that the file lacks or has twice."""
    for name in wanted:
        if name not in found:
            raise InputError(
                f"{path} has no column {name!r}: it has {', '.join(found)}; "
                + near_matches(name, found)
            )
        if list(found).count(name) > 1:
            raise InputError(f"{path} has two columns {name!r}: leave one of them out")


def read_text(
    path: Path,
    columns: Sequence[str],
    *,
    separator: str = ",",
    names: Sequence[str] | None = None,
    quoted: bool = True,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[Chunk]:
    """Yield the rows of a delimited text file, plain or gzipped, in chunks of strings.

    Args:
        path: the file.
        columns: the columns to keep.
        separator: one character.
        names: names of all columns; None where the first line has them.
        quoted: whether a field may be in double quotes, and then hold separators and line ends.
        chunk_rows: rows of a chunk at most; a chunk may be smaller.

    Raises:
        InputError: the file is missing, empty or damaged; a column is missing; a row has too few
            or too many fields.
    """
    rows, empty = 0, True
    with _open(path) as stream:
        for block, start, line in _records(stream, path, quoted):
            empty = False
            if names is None:
                names = _header(path, block[: start[1]], separator, columns)
                start, line = start[1:], line[1:]
            for first in range(0, len(line), max(1, chunk_rows)):
                last = min(first + max(1, chunk_rows), len(line))
                part = start[first : last + 1]
                keep = ~_blank(block, part)
                if keep.any():
                    text = memoryview(block)[part[0] : part[-1]]
                    kept = line[first:last][keep]
                    chunk = _parse(path, text, kept, names, columns, separator, quoted)
                    rows += len(chunk)
                    yield chunk
    if not rows:
        raise InputError(f"{path} is empty" if empty else f"{path} has no rows")


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacked if gzipped, with a progress bar of the bytes read on stderr."""
    size = existing_file(path).stat().st_size
    bar = progress_bar(total=size, unit="B", unit_scale=True, desc=path.name, leave=False)
    with path.open("rb") as raw, bar:

        class Watched:
            def read(self, size: int) -> bytes:
                data = stream.read(size)
                bar.update(raw.tell() - bar.n)
                return data

        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            yield Watched()  # type: ignore[misc]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged ({error}): fetch it again") from error


def _records(
    stream: IO[bytes], path: Path, quoted: bool
) -> Iterator[tuple[bytes, np.ndarray, np.ndarray]]:
    """Yield blocks of whole records: bytes, where records start [n + 1], line of each [n]."""
    rest, line, final = b"", 1, False
    while not final:
        data = stream.read(_BLOCK)
        final = not data
        block = rest + data
        if line == 1 and not rest:
            block = block.removeprefix(b"\xef\xbb\xbf")
        if not block:
            continue
        byte = np.frombuffer(block, np.uint8)
        newline = ends = np.flatnonzero(byte == 10)
        if quoted and b'"' in block:
            quotes = np.flatnonzero(byte == 34)
            ends = newline[np.searchsorted(quotes, newline) % 2 == 0]
            if final and len(quotes) % 2:
                at = line + int(np.searchsorted(newline, quotes[-1]))
                raise InputError(f"{path}, line {at}: a quote is opened that is never closed")
        if final and (not len(ends) or ends[-1] != len(block) - 1):
            ends = np.append(ends, len(block) - 1)
        if not len(ends):
            if len(block) > _LONGEST:
                raise InputError(
                    f"{path}, line {line}: a line of more than {_LONGEST >> 20} MB, or a quote "
                    "that is never closed"
                )
            rest = block
            continue
        start = np.concatenate([[0], ends + 1])
        yield block[: start[-1]], start, line + np.searchsorted(newline, start[:-1])
        line += int(np.searchsorted(newline, start[-1]))
        rest = block[start[-1] :]


def _header(path: Path, text: bytes, separator: str, columns: Sequence[str]) -> list[str]:
    line = text.decode("utf-8", "replace").rstrip("\r\n")
    names = next(csv.reader([line], delimiter=separator), [])
    check_columns(path, columns, names)
    return names


def _blank(block: bytes, start: np.ndarray) -> np.ndarray:
    """[n] bool, whether a record is an empty line."""
    byte, size = np.frombuffer(block, np.uint8), np.diff(start)
    first, last = byte[start[:-1]], byte[start[1:] - 1]
    return ((size == 1) & (first == 10)) | ((size == 2) & (first == 13) & (last == 10))


def _parse(
    path: Path,
    text: memoryview,
    line: np.ndarray,
    names: Sequence[str],
    columns: Sequence[str],
    separator: str,
    quoted: bool,
) -> Chunk:
    """Parse whole records into a chunk; `line` has the line of each that is not blank."""
    wrong: list[Any] = []

    def note(row: Any) -> str:
        wrong.append(row)
        return "skip"

    try:
        table = pcsv.read_csv(
            pa.BufferReader(text),
            pcsv.ReadOptions(
                use_threads=False, block_size=len(text) + 1, column_names=_unique(names)
            ),
            pcsv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=note,
            ),
            pcsv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), include_columns=list(columns)
            ),
        )
    except pa.ArrowInvalid as error:
        raise _unreadable(path, text, int(line[0]), error) from error
    if wrong:
        row = wrong[0]
        short = row.text if len(row.text) < 80 else row.text[:77] + "..."
        raise InputError(
            f"{path}, line {int(line[row.number - 1])}: {row.actual_columns} fields where "
            f"{row.expected_columns} are expected (separator {separator!r}): {short!r}"
        )
    if table.num_rows != len(line):
        raise InputError(
            f"{path}, lines {int(line[0])} to {int(line[-1])}: a carriage return stands inside a "
            "line; end every line with a line feed"
        )
    return Chunk(path, table, line)


def _unique(names: Sequence[str]) -> list[str]:
    """Return names with the repeated ones made distinct (no reader asks for these)."""
    return [n if n not in names[:i] else f"{n}\0{i}" for i, n in enumerate(names)]


def _unreadable(path: Path, text: memoryview, line: int, error: Exception) -> InputError:
    for number, content in enumerate(bytes(text).split(b"\n"), start=line):
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            return InputError(f"{path}, line {number}: {content[:60]!r} is not UTF-8 text")
    return InputError(f"{path}, line {line} or later cannot be read: {error}")


def read_parquet(
    path: Path,
    columns: Sequence[str],
    *,
    index: str | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[Chunk]:
    """Yield the rows of a Parquet file in chunks.

    Args:
        path: the file.
        columns: the columns to keep.
        index: the column that may have been stored as the unnamed index of a pandas frame.
        chunk_rows: rows of a chunk at most.

    Raises:
        InputError: the file is missing or damaged, or lacks a column.
    """
    existing_file(path)
    first = 0
    bar = progress_bar(unit="row", unit_scale=True, desc=path.name, leave=False)
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file, bar:
            bar.total = file.metadata.num_rows
            found = list(file.schema_arrow.names)
            hidden = index if index not in found and "__index_level_0__" in found else None
            found = [hidden if n == "__index_level_0__" and hidden else n for n in found]
            check_columns(path, columns, found)
            stored = ["__index_level_0__" if n == hidden else n for n in columns]
            for batch in file.iter_batches(max(1, chunk_rows), columns=stored):
                table = pa.Table.from_batches([batch]).select(stored).rename_columns(list(columns))
                line = np.arange(first, first + len(batch))
                first += len(batch)
                bar.update(len(batch))
                yield Chunk(path, table, line, "row")
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as Parquet ({reason}): fetch it again") from error
