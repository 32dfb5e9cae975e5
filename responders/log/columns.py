"""Columns of a frame as raw ids, numbers and seconds; an error names the first bad value."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from responders.errors import InputError

Fault = Callable[[int, str, Any, str], InputError]
"""Returns the error for (row, column, value, what is wrong)."""

_LATEST = 10**11  # seconds, the year 5138; later times are surely milliseconds


def reject(bad: Any, column: str, values: Any, why: str, fault: Fault) -> None:
    """Raise the error of the first row that is bad, if there is one."""
    bad = np.asarray(bad, bool)
    if bad.any():
        row = int(np.argmax(bad))
        value = np.asarray(values, dtype=object)[row]
        raise fault(row, column, value, why)


def ids(column: pd.Series, name: str, fault: Fault) -> np.ndarray:
    """Return raw ids: int64 for integers and whole floats, otherwise str.

    Dates and other hashable values become text. Integers and text in one column are refused, as
    1 and "1" would become one id.
    """
    column = _plain(column)
    if column.dtype.kind == "f" or pd.api.types.infer_dtype(column) in _NUMERIC:
        why = 'is not a whole number below 2**53; give ids as integers or text (astype("Int64"))'
        number = column.astype(float)
        reject(~((number % 1 == 0) & (number.abs() <= 2**53)), name, column, why, fault)
        return number.to_numpy(np.int64)
    if column.dtype.kind in "iu" or pd.api.types.infer_dtype(column) == "integer":
        big = (column > np.iinfo(np.int64).max) | (column < np.iinfo(np.int64).min)
        reject(big, name, column, "is beyond int64; give such ids as text (astype(str))", fault)
        return column.to_numpy(np.int64)
    values = column.to_numpy(object)
    kinds = [type(value) for value in values]
    why = f"is of type {{}} where the first is of type {kinds[0].__name__}; give ids of one type"
    for row, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        if kind.__hash__ is None or isinstance(value, tuple | bytes | frozenset):
            raise fault(row, name, value, f"is of type {kind.__name__}; ids are integers or text")
        if kind is not kinds[0]:
            raise fault(row, name, value, why.format(kind.__name__))
    text = np.array([str(value) for value in values], dtype=object)
    reject([not _is_utf8(t) for t in text], name, text, "is not valid Unicode", fault)
    return text


def numbers(column: pd.Series, name: str, fault: Fault) -> np.ndarray:
    """Return finite numbers, float64 or int64, from numbers, booleans or text."""
    column = _plain(column)
    if column.dtype.kind in "iub":
        return column.to_numpy(np.int64 if column.dtype.kind != "u" else np.float64)
    if column.dtype.kind in "Mmc":
        raise fault(0, name, column.iloc[0], "is not a number")
    if column.dtype.kind != "f":
        column = column.astype(object)
        is_number = column.map(lambda value: isinstance(value, str | Real | Decimal | np.bool_))
        reject(~is_number.astype(bool), name, column, "is not a number", fault)
        values = [_BOOLEANS.get(str(value).lower(), value) for value in column]
        column = pd.Series(values, dtype=object)
    number = pd.to_numeric(column, errors="coerce").astype(float)
    reject(~np.isfinite(number), name, column, "is not a finite number", fault)
    exact = pd.to_numeric(column, errors="coerce")
    return exact.to_numpy(np.int64) if exact.dtype.kind == "i" else number.to_numpy()


def whole(column: pd.Series, name: str, fault: Fault) -> np.ndarray:
    """Return whole numbers, int64."""
    number = numbers(column, name, fault)
    bad = ~((number % 1 == 0) & (np.abs(number) <= 2**53))
    reject(bad, name, column, "is not a whole number", fault)
    return number.astype(np.int64)


def times(column: pd.Series, name: str, fault: Fault) -> tuple[np.ndarray, np.ndarray]:
    """Return times as they can be ordered, and as whole seconds, int64 (rounded down).

    Numbers are seconds; dates are seconds since 1970, in UTC unless they have a zone; durations
    and text work as well (text: numbers, ISO 8601, or durations such as ``0 days 00:01:00``).
    """
    column = _plain(column)
    exact = _microseconds(column, name, fault)
    if exact is None:
        exact = numbers(column, name, fault)
        seconds = np.floor(exact)
    else:
        seconds = exact // 1_000_000
    reject(seconds < 0, name, column, "is negative; give seconds since an origin", fault)
    why = "is beyond the year 5000; give seconds, not milliseconds"
    reject(seconds > _LATEST, name, column, why, fault)
    return exact, seconds.astype(np.int64)


_NO_TIME = "is not a time; give numbers of seconds, dates (pandas.to_datetime) or ISO 8601 text"
_NUMERIC = ("floating", "mixed-integer-float", "decimal")
_BOOLEANS = {"true": 1, "false": 0}


def _plain(column: pd.Series) -> pd.Series:
    """Return a column without missing values as one of a plain type where there is one."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if column.dtype.kind in "iufb" and not isinstance(column.dtype, np.dtype):
        column = pd.Series(column.to_numpy(dtype=getattr(column.dtype, "numpy_dtype", None)))
    return column.reset_index(drop=True)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _microseconds(column: pd.Series, name: str, fault: Fault) -> np.ndarray | None:
    """Return a column of dates or durations as int64 microseconds, or None if it has numbers."""
    kind = pd.api.types.infer_dtype(column)
    is_text = kind == "string"
    if is_text and (is_number := pd.to_numeric(column, errors="coerce").notna()).any():
        reject(~is_number, name, column, _NO_TIME, fault)
        return None
    if not is_text and not kind.startswith(("date", "timedelta")):
        return None
    with_duration = kind.startswith("timedelta")
    if is_text:
        with_duration = bool(pd.to_timedelta(column, errors="coerce").notna().all())
    if with_duration:
        parsed: Any = pd.to_timedelta(column, errors="coerce")
        zone = ""
    else:
        options: Any = {"format": "ISO8601"} if is_text else {}
        parsed = pd.to_datetime(column, errors="coerce", utc=True, **options)
        zone = ", UTC"
    reject(parsed.isna(), name, column, _NO_TIME, fault)
    unit = "timedelta64[us]" if with_duration else f"datetime64[us{zone}]"
    micro: np.ndarray = parsed.astype(unit).astype(np.int64).to_numpy()
    return micro
