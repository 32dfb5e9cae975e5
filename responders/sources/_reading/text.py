"""Stream delimited text files as chunks of strings with exact line numbers.

Records are cut here and parsed by Arrow. DuckDB's CSV reader is faster but unsuitable: it gives no
line number for the rows it accepts, counts records instead of lines once a quoted field has a line
break, does not verify the checksum of a gzipped file, and casts "2.5" or "0x10" to an integer.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from responders.errors import InputError
from responders.progress import progress_bar
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk, check_columns
from responders.sources._reading.files import existing_file

_BLOCK = 1 << 22  # bytes read at a time
_LONGEST = 1 << 26  # bytes; a longer record is taken for a quote that is never closed


def read_text(
    path: Path,
    columns: Sequence[str],
    *,
    separator: str = ",",
    names: Sequence[str] | None = None,
    quoted: bool = True,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[Chunk]:
    """Yield the rows of a delimited text file, plain or gzipped; empty lines are skipped.

    Args:
        path: the file.
        columns: the columns to keep.
        separator: one character.
        names: names of all columns; None if the first line has them.
        quoted: whether fields may be in double quotes and then contain separators and line breaks.
        chunk_rows: rows of a chunk at most; chunks may be smaller.

    Raises:
        InputError: the file is missing, empty or damaged, a column is missing, or a row has too
            few or too many fields.
    """
    layout = None if names is None else _Layout(path, tuple(names), columns, separator, quoted)
    size, rows, empty = max(1, chunk_rows), 0, True
    for block, start, line in _records(path, quoted):
        empty = False
        if layout is None:
            header = _header(path, block[: start[1]], separator, columns)
            layout = _Layout(path, header, columns, separator, quoted)
            start, line = start[1:], line[1:]
        for first in range(0, len(line), size):
            part = start[first : first + size + 1]
            kept = line[first : first + size][~_is_blank(block, part)]
            if len(kept):
                rows += len(kept)
                yield layout.parse(memoryview(block)[part[0] : part[-1]], kept)
    if not rows:
        raise InputError(f"{path} is empty" if empty else f"{path} has no rows")


def text_header(path: Path) -> list[str]:
    """Return the names of the columns of a text file with commas."""
    for block, start, _ in _records(path, True):
        return list(_header(path, block[: start[1]], ",", ()))
    raise InputError(f"{path} is empty")


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed if it is gzipped, with a progress bar."""
    size = existing_file(path).stat().st_size
    bar = progress_bar(total=size, unit="B", unit_scale=True, desc=path.name, leave=False)
    with path.open("rb") as raw, bar:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if gzipped else raw
        try:
            while data := stream.read(_BLOCK):
                bar.update(raw.tell() - bar.n)
                yield data
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged ({error}): download it again") from error


def _records(path: Path, quoted: bool) -> Iterator[tuple[bytes, np.ndarray, np.ndarray]]:
    """Yield blocks of n whole records: bytes, starts [n + 1] and line numbers [n] of records."""
    rest, line = b"", 1
    for data in chain(_blocks(path), [b""]):
        final = not data
        block = rest + data
        if line == 1 and not rest:
            _check_encoding(path, block)
            block = block.removeprefix(b"\xef\xbb\xbf")
        if not block:
            continue
        # Whole blocks at a time: a Python loop over lines would be slower than the parsing.
        byte = np.frombuffer(block, np.uint8)
        newline = ends = np.flatnonzero(byte == 10)
        if quoted and b'"' in block:
            quotes = np.flatnonzero(byte == 34)
            ends = newline[np.searchsorted(quotes, newline) % 2 == 0]
            if final and len(quotes) % 2:
                at = line + int(np.searchsorted(newline, quotes[-1]))
                raise InputError(f"{path}, line {at}: a quote is opened and never closed")
        if final and (not len(ends) or ends[-1] != len(block) - 1):
            ends = np.append(ends, len(block) - 1)
        if not len(ends):
            if len(block) > _LONGEST:
                raise InputError(
                    f"{path}, line {line}: the line is longer than {_LONGEST >> 20} MB, or a "
                    "quote is opened and never closed"
                )
            rest = block
            continue
        start = np.concatenate([[0], ends + 1])
        yield block[: start[-1]], start, line + np.searchsorted(newline, start[:-1])
        line += int(np.searchsorted(newline, start[-1]))
        rest = block[start[-1] :]


def _check_encoding(path: Path, start: bytes) -> None:
    """Raise `InputError` for a file that starts like UTF-16 text or is not text."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        raise InputError(
            f"{path} is UTF-16 text, not UTF-8; convert it with "
            f"`iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}`"
        )


def _header(path: Path, text: bytes, separator: str, columns: Sequence[str]) -> tuple[str, ...]:
    line = text.decode("utf-8", "replace").rstrip("\r\n")
    names = next(csv.reader([line], delimiter=separator), [])
    check_columns(path, columns, names)
    return tuple(names)


def _is_blank(block: bytes, start: np.ndarray) -> np.ndarray:
    """Return whether each record is an empty line: [n] bool of starts [n + 1]."""
    byte, size = np.frombuffer(block, np.uint8), np.diff(start)
    first, last = byte[start[:-1]], byte[start[1:] - 1]
    return ((size == 1) & (first == 10)) | ((size == 2) & (first == 13) & (last == 10))


@dataclass(frozen=True)
class _Layout:
    """How the records of a file are laid out; the arguments are those of `read_text`."""

    path: Path
    names: tuple[str, ...]
    columns: Sequence[str]
    separator: str
    quoted: bool

    def parse(self, text: memoryview, line: np.ndarray) -> Chunk:
        """Parse whole records; `line` [n] has the line of each record that is not blank."""
        invalid: list[Any] = []

        def note(row: Any) -> str:
            invalid.append(row)
            return "skip"

        try:
            table = self._read(text, note)
        except pa.ArrowInvalid as error:
            raise self._unreadable(text, int(line[0]), error) from error
        if invalid:
            row = invalid[0]
            short = row.text if len(row.text) < 80 else row.text[:77] + "..."
            raise InputError(
                f"{self.path}, line {int(line[row.number - 1])}: {row.actual_columns} fields where "
                f"{row.expected_columns} are expected (separator {self.separator!r}): {short!r}"
            )
        if table.num_rows != len(line):
            raise InputError(
                f"{self.path}, lines {int(line[0])} to {int(line[-1])}: there is a carriage return "
                "within a line; end every line with a line feed"
            )
        return Chunk(self.path, table, line)

    def _read(self, text: memoryview, note: Any) -> pa.Table:
        # Columns that are not kept may share a name in the file; Arrow wants distinct names.
        names = [n if n in self.columns else f"\0{i}" for i, n in enumerate(self.names)]
        return pcsv.read_csv(
            pa.BufferReader(text),
            pcsv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
            pcsv.ParseOptions(
                delimiter=self.separator,
                quote_char='"' if self.quoted else False,
                newlines_in_values=self.quoted,
                invalid_row_handler=note,
            ),
            pcsv.ConvertOptions(
                column_types=dict.fromkeys(self.columns, pa.string()),
                include_columns=list(self.columns),
            ),
        )

    def _unreadable(self, text: memoryview, line: int, error: Exception) -> InputError:
        for number, content in enumerate(bytes(text).split(b"\n"), start=line):
            try:
                content.decode("utf-8")
            except UnicodeDecodeError:
                return InputError(
                    f"{self.path}, line {number}: {content[:60]!r} is not UTF-8 text; save the "
                    "file as UTF-8"
                )
        return InputError(f"{self.path}, line {line} or later cannot be read: {error}")
