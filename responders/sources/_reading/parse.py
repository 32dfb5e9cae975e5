"""Parse columns of a chunk, a whole column at a time: numbers, times and lists.

A value that cannot be parsed raises one `InputError` with file, line, column and value.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from responders.errors import InputError
from responders.log import ragged
from responders.sources._reading.chunk import Chunk


@dataclass(frozen=True)
class Ragged:
    """n lists end to end: `values` [m], `length` [n] int64."""

    values: np.ndarray
    length: np.ndarray

    @property
    def owner(self) -> np.ndarray:
        """The list of each value: [m] int64."""
        return ragged.owner(self.length)

    @property
    def place(self) -> np.ndarray:
        """The index of each value in its list, from 0: [m] int64."""
        return ragged.place(self.length)

    def pairs(self, owner: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a number for each (list, value) pair: of all values, [m], and of those given."""
        ids, code = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        m = len(self.values)
        return self.owner * len(ids) + code[:m], owner * len(ids) + code[m:]


def integers(chunk: Chunk, column: str) -> np.ndarray:
    """Return a column as int64 [n]."""
    return _Values(chunk, column, chunk.column(column)).numbers(*_INTEGER)


def distinct_integers(chunk: Chunk, column: str) -> np.ndarray:
    """Return a column of item ids as int64 [n], all different."""
    ids = integers(chunk, column)
    repeated = np.ones(len(ids), bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    chunk.reject(repeated, "item {} is listed twice; remove one of the rows", ids, column=column)
    return ids


def floats(chunk: Chunk, column: str) -> np.ndarray:
    """Return a column as float64 [n], all within the range of float32."""
    return _Values(chunk, column, chunk.column(column)).numbers(*_NUMBER)


def microseconds(chunk: Chunk, column: str) -> np.ndarray:
    """Return a column of dates and times as int64 [n] since 1970; without a zone they are UTC."""
    values = chunk.column(column)
    if pa.types.is_string(values.type):
        kind = pa.timestamp("us", tz="UTC")
        try:
            values = pc.cast(values, kind)
        except pa.ArrowInvalid:
            text = pc.replace_substring_regex(values, r"([+-]\d\d:?\d\d|Z)$", "")
            has_zone = pc.not_equal(text, values)
            kind = kind if has_zone[0].as_py() else pa.timestamp("us")
    elif pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        kind = pa.timestamp("us", tz=getattr(values.type, "tz", None))
        if getattr(values.type, "unit", None) == "ns":
            values = values.cast(kind, safe=False)  # drops digits, and cannot overflow
    else:
        raise InputError(
            f"{chunk.path}, column {column}: it has {values.type} values, not dates and times"
        )
    times = _Values(chunk, column, values).cast(kind, "a date and time")
    return times.cast(pa.int64()).to_numpy(zero_copy_only=False)


def integer_lists(chunk: Chunk, column: str, separator: str | None = ",") -> Ragged:
    """Return a column of lists of integers: text such as ``1,2`` or ``[1, 2]``, or Arrow lists.

    Args:
        chunk: the rows.
        column: its name.
        separator: the text between two values; None = any white space, line breaks included.
    """
    values, length = _lists(chunk, column, separator)
    return Ragged(values.numbers(*_INTEGER), length)


def float_lists(chunk: Chunk, column: str) -> Ragged:
    """Return a column of lists of numbers within the range of float32; see `integer_lists`."""
    values, length = _lists(chunk, column, ",")
    return Ragged(values.numbers(*_NUMBER), length)


_INTEGER = (pa.int64(), "an integer")
_NUMBER = (pa.float64(), "a number that fits float32")
_UNCASTABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError)


def _lists(chunk: Chunk, column: str, separator: str | None) -> tuple[_Values, np.ndarray]:
    """Return the unparsed values [m] of a column of lists and the length of each list, [n]."""
    array = chunk.column(column)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        text = pc.utf8_trim(pc.fill_null(array, ""), " \t\r\n[]")
        if separator is None:
            parts = pc.ascii_split_whitespace(text)
        else:
            parts = pc.split_pattern(text, separator)
        length, values = pc.list_value_length(parts), pc.list_flatten(parts)
        empty = np.asarray(pc.equal(text, ""))
        if empty.any():  # splitting an empty text gives one empty value
            length = pc.if_else(empty, 0, length)
            values = values.filter(pa.array(np.repeat(~empty, np.asarray(parts.value_lengths()))))
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        length, values = pc.fill_null(pc.list_value_length(array), 0), pc.list_flatten(array)
    else:
        raise InputError(f"{chunk.path}, column {column}: it has {array.type} values, not lists")
    size = np.asarray(length).astype(np.int64)
    return _Values(chunk, column, values, ragged.owner(size)), size


@dataclass(frozen=True)
class _Values:
    """Values of a column; value i is in row owner[i] of the chunk, or in row i if None."""

    chunk: Chunk
    column: str
    values: pa.Array
    owner: np.ndarray | None = None

    def numbers(self, kind: pa.DataType, what: str) -> np.ndarray:
        """Return the values as numbers of an Arrow type; `what` is for errors.

        Logs store float32, so that a number beyond it would become infinite.
        """
        numbers = self.cast(kind, what).to_numpy(zero_copy_only=False)
        if numbers.dtype.kind == "f":
            fits = np.abs(numbers) <= np.finfo(np.float32).max  # False for NaN
            if not fits.all():
                raise self._fault(int(np.argmin(fits)), what)
        return numbers

    def cast(self, kind: pa.DataType, what: str) -> pa.Array:
        """Return the values as an Arrow type; raise `InputError` at the first that is not."""
        values = self.values
        if values.null_count:
            raise self._fault(int(np.argmax(np.asarray(values.is_null()))), what)
        with suppress(*_UNCASTABLE):
            return values.cast(kind)
        if pa.types.is_string(values.type):
            values = pc.utf8_trim_whitespace(values)
        with suppress(*_UNCASTABLE):
            return values.cast(kind)
        # Arrow does not say which value is the first that it cannot cast.
        low, high = 0, len(values)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _castable(values[low:middle], kind) else (low, middle)
        raise self._fault(low, what)

    def _fault(self, at: int, what: str) -> InputError:
        value = self.values[at].as_py()
        long = isinstance(value, str) and len(value) >= 60
        short = repr(value[:57] + "..." if long else value)
        row = at if self.owner is None else int(self.owner[at])
        message = f"{short} is not {what}; correct or remove the {self.chunk.unit}"
        return self.chunk.fault(row, message, self.column)


def _castable(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        values.cast(kind)
    except _UNCASTABLE:
        return False
    return True
