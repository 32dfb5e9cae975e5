"""Frames with a row per item or user: their features and prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from responders.errors import InputError
from responders.log import columns as read
from responders.log.catalogue import EMPTY, Catalogue, Users


def as_frame(frame: Any, what: str) -> pd.DataFrame:
    """Return a frame or a dict of columns as a frame."""
    if isinstance(frame, Mapping):
        try:
            frame = pd.DataFrame(dict(frame))
        except (ValueError, TypeError) as error:
            raise InputError(f"{what} is a dict that does not make a frame: {error}") from None
    if not isinstance(frame, pd.DataFrame):
        kind = type(frame).__name__
        raise InputError(f"{what} must be a pandas DataFrame or a dict of columns, not {kind}")
    if not len(frame):
        raise InputError(f"the log is empty: {what} has no rows")
    return frame


def _indexed(frame: Any, what: str, key: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the ids of a frame of items or users, and its other columns as numbers."""
    frame = as_frame(frame, what)
    have = list(map(str, frame.columns))
    if len(set(have)) < len(have):
        raise InputError(f"{what} has two columns of one name")
    name = next((n for n in (key, "id") if n in have), None)
    index = frame.index.to_series() if name is None else frame[name]
    rest = frame if name is None else frame.drop(columns=name)

    def fault(row: int, column: str, value: Any, why: str) -> InputError:
        return InputError(f"{what}, row {row}: {column} {value!r} {why}")

    for column in (index, *(rest[c] for c in rest)):
        read.reject(column.isna(), str(column.name), column, "is missing (NaN)", fault)
    label = name or "index"
    ids = read.ids(index, label, fault)
    read.reject(pd.Series(ids).duplicated(), label, ids, "is there twice", fault)
    numbers = {str(c): read.numbers(rest[c], str(c), fault) for c in rest}
    return ids, pd.DataFrame(numbers, index=range(len(ids)))


def catalogue_of(items: Any, id_name: str, price_name: str | None) -> Catalogue:
    """Return the items of a frame; all columns but ids and price are features."""
    ids, columns = _indexed(items, "items", id_name)
    price = None
    if price_name is not None:
        if price_name not in columns:
            raise InputError(
                f"items lacks column {price_name!r}: it has {', '.join(map(str, columns))}"
            )
        price = columns.pop(price_name).to_numpy()
    return Catalogue(ids, columns.to_numpy(float), price, feature_names=tuple(map(str, columns)))


def users_of(users: Any, id_name: str, wanted: np.ndarray) -> Users:
    """Return the users with the ids `wanted`, in that order, and their features of a frame."""
    ids, columns = _indexed(users, "users", id_name)
    row = Catalogue(ids).index(wanted)
    if (row == EMPTY).any():
        raise InputError(f"users has no row for user {wanted[np.argmax(row == EMPTY)]}")
    return Users(wanted, columns.to_numpy(float)[row], tuple(map(str, columns)))
