"""Parsers of the columns of a chunk: numbers, times and lists, whole columns at a time.

A value that does not parse is one `InputError` naming file, line, column and value; only such
values are sought one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from responders.errors import InputError
from responders.sources._reading.raw import Chunk


@dataclass(frozen=True)
class Ragged:
    """n lists end to end: `values` [m], `length` [n] int64."""

    values: np.ndarray
    length: np.ndarray

    @property
    def row(self) -> np.ndarray:
        """[m] int64, the list each value belongs to."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @property
    def place(self) -> np.ndarray:
        """[m] int64, where each value stands in its list, from 0."""
        start = np.cumsum(self.length) - self.length
        return np.arange(len(self.values)) - np.repeat(start, self.length)

    def pairs(self, row: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Code (list, value) as one number: return the codes of all [m] and of the pairs given."""
        ids, code = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        m = len(self.values)
        return self.row * len(ids) + code[:m], row * len(ids) + code[m:]


def integers(chunk: Chunk, column: str) -> np.ndarray:
    """Return a column as int64 [n]."""
    return _numbers(chunk, column, chunk.column(column), None, pa.int64(), "an integer")


def distinct_integers(chunk: Chunk, column: str) -> np.ndarray:
    """Return a column of item ids as int64 [n], all different."""
    ids = integers(chunk, column)
    again = np.ones(len(ids), bool)
    again[np.unique(ids, return_index=True)[1]] = False
    if again.any():
        row = int(np.argmax(again))
        raise chunk.fault(row, f"item {ids[row]} is listed twice", column)
    return ids


def floats(chunk: Chunk, column: str) -> np.ndarray:
    """Return a column as float64 [n], all finite."""
    return _numbers(chunk, column, chunk.column(column), None, pa.float64(), "a number")


def microseconds(chunk: Chunk, column: str) -> np.ndarray:
    """Return a column of dates and times, without a zone or in any, as int64 [n] since 1970."""
    values = chunk.column(column)
    if pa.types.is_string(values.type):
        kind = pa.timestamp("us", tz="UTC")
        try:
            values = pc.cast(values, kind)
        except pa.ArrowInvalid:
            text = pc.replace_substring_regex(values, r"([+-]\d\d:?\d\d|Z)$", "")
            zoned = pc.not_equal(text, values)
            kind = kind if zoned[0].as_py() else pa.timestamp("us")
    else:
        kind = pa.timestamp("us", tz=getattr(values.type, "tz", None))
        values = values.cast(kind, safe=False)
    values = _cast(chunk, column, values, None, kind, "a date and time")
    return values.cast(pa.int64()).to_numpy(zero_copy_only=False)


def integer_lists(chunk: Chunk, column: str, separator: str | None = ",") -> Ragged:
    """Return a column of lists of integers: text such as ``1,2``, ``[1, 2]`` or real lists.

    Args:
        chunk: the rows.
        column: its name.
        separator: what stands between the values of text; None = white space, lines may wrap.
    """
    return _lists(chunk, column, separator, pa.int64(), "an integer")


def float_lists(chunk: Chunk, column: str, separator: str | None = ",") -> Ragged:
    """Return a column of lists of finite numbers; see `integer_lists`."""
    return _lists(chunk, column, separator, pa.float64(), "a number")


def _lists(
    chunk: Chunk, column: str, separator: str | None, kind: pa.DataType, what: str
) -> Ragged:
    array = chunk.column(column)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        text = pc.utf8_trim(array, " \t\r\n[]")
        split = pc.ascii_split_whitespace(text) if separator is None else None
        parts = pc.split_pattern(text, separator) if split is None else split
        length, values = pc.list_value_length(parts), pc.list_flatten(parts)
        empty = np.asarray(pc.equal(text, ""))
        if empty.any():
            length = pc.if_else(empty, 0, length)
            values = values.filter(pa.array(np.repeat(~empty, np.asarray(parts.value_lengths()))))
    elif hasattr(array.type, "value_type"):
        length, values = pc.fill_null(pc.list_value_length(array), 0), pc.list_flatten(array)
    else:
        raise InputError(f"{chunk.path}, column {column}: holds {array.type}, not lists")
    size = np.asarray(length).astype(np.int64)
    row = np.repeat(np.arange(len(size)), size)
    return Ragged(_numbers(chunk, column, values, row, kind, what), size)


def _numbers(
    chunk: Chunk,
    column: str,
    values: pa.Array,
    row: np.ndarray | None,
    kind: pa.DataType,
    what: str,
) -> np.ndarray:
    numbers = _cast(chunk, column, values, row, kind, what).to_numpy(zero_copy_only=False)
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise _no_number(chunk, column, values, row, int(np.argmin(np.isfinite(numbers))), what)
    return numbers


def _cast(
    chunk: Chunk,
    column: str,
    values: pa.Array,
    row: np.ndarray | None,
    kind: pa.DataType,
    what: str,
) -> pa.Array:
    """Cast `values` to `kind`; value i stands in row[i] of the chunk (row i when None)."""
    if values.null_count:
        at = int(np.argmax(np.asarray(values.is_null())))
        raise _no_number(chunk, column, values, row, at, what)
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        if pa.types.is_string(values.type):
            values = pc.utf8_trim_whitespace(values)
    low, high = 0, len(values)  # the first bad value is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if not _castable(values[low:middle], kind) else (middle, high)
    if not _castable(values[low:high], kind):
        raise _no_number(chunk, column, values, row, low, what)
    return values.cast(kind)


def _castable(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _no_number(
    chunk: Chunk, column: str, values: pa.Array, row: np.ndarray | None, at: int, what: str
) -> InputError:
    value = values[at].as_py()
    short = repr(value if not isinstance(value, str) or len(value) < 60 else value[:57] + "...")
    place = at if row is None else int(row[at])
    return chunk.fault(place, f"{short} is not {what}; correct or remove the {chunk.unit}", column)
