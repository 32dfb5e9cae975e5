"""The items and users of a log."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from responders.errors import InputError

EMPTY = -1
"""The item index of an empty position."""


def frozen(array: Any, dtype: Any, name: str) -> np.ndarray:
    """Return `array` as a read-only array of `dtype`, copied only if necessary.

    Raises:
        InputError: a value does not fit; the message calls the array `name`.
    """
    given = np.asarray(array)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            array = given.astype(dtype, copy=False)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{name} is not an array of {np.dtype(dtype)}: {error}") from None
    if given.dtype != array.dtype and array.dtype.kind in "iu" and (given != array).any():
        value = given[given != array].flat[0]
        raise InputError(f"{name} has the value {value}, which is not of type {array.dtype}")
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def raw_ids(ids: Any) -> np.ndarray:
    """Return raw ids as an int64 array, or as an array of str if they are not integers.

    Raises:
        InputError: an integer is beyond int64.
    """
    ids = np.asarray(ids)
    if ids.dtype.kind in "iu":
        return frozen(ids, np.int64, "ids").copy()
    return np.array([str(i) for i in ids.tolist()], dtype=object)


def _named(names: Any, features: np.ndarray) -> tuple[str, ...]:
    """Return the names of the columns of `features`, by default feature_0, feature_1, …"""
    width = features.shape[1] if features.ndim == 2 else 0
    default = [f"feature_{i}" for i in range(max(width, len(names or ())))]
    names = tuple(default[:width] if names is None else map(str, names))
    if names == tuple(default[: len(names)]):  # other features may replace those without names
        return tuple(default[:width])
    if len(names) != width or len(set(names)) != width:
        raise InputError(
            f"feature_names are {', '.join(names) or 'none'}: give {width} different names, one "
            "for each column of features"
        )
    return names


def _validate(table: str, row: str, ids: np.ndarray, columns: dict[str, Any]) -> None:
    """Raise `InputError` for repeated ids, or a column [n] that is not one finite value each."""
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        raise InputError(
            f"{table}: {row} id {values[counts > 1].tolist()[0]!r} occurs more than once"
        )
    for name, column in columns.items():
        if column is None:
            continue
        if column.ndim != 1 + (name == "features"):
            shape = "[n, F]" if name == "features" else "[n]"
            raise InputError(f"{table}.{name} has shape {column.shape}, not {shape}")
        if len(column) != len(ids):
            raise InputError(f"{table}.{name} has {len(column)} rows for {len(ids)} {row}s")
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            at = int(np.argwhere(~np.isfinite(column))[0][0])
            raise InputError(f"{table}.{name} of {row} {ids[at]} is NaN or infinite")


@dataclass(frozen=True)
class Catalogue:
    """The items that can be shown; an item's index is its row.

    Args:
        ids: [N] raw item ids, int64 or str, unique.
        features: [N, F] float32 content features; F may be 0.
        price: [N] float32, or None if items have no price.
        attributes: further named columns [N], such as the layer of an item in RL4RS.
        feature_names: names of the F features, all different; by default feature_0, feature_1, …
    """

    ids: np.ndarray
    features: np.ndarray = None  # type: ignore[assignment]
    price: np.ndarray | None = None
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    feature_names: tuple[str, ...] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        features = np.zeros((len(self.ids), 0)) if self.features is None else self.features
        object.__setattr__(self, "ids", raw_ids(self.ids))
        object.__setattr__(self, "features", frozen(features, np.float32, "features"))
        object.__setattr__(self, "feature_names", _named(self.feature_names, self.features))
        if self.price is not None:
            object.__setattr__(self, "price", frozen(self.price, np.float32, "price"))

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, ids: Any) -> np.ndarray:
        """Return the int64 index of each raw id, -1 if it is not in the catalogue."""
        wanted = np.asarray(ids)
        if wanted.size == 0:
            return np.zeros(wanted.shape, dtype=np.int64)
        if (wanted.dtype.kind in "iu") != (self.ids.dtype.kind in "iu"):
            return np.full(wanted.shape, EMPTY, dtype=np.int64)
        order = np.argsort(self.ids, kind="stable")
        sorted_ids = self.ids[order]
        rank = np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1)
        return np.where(sorted_ids[rank] == wanted, order[rank], EMPTY)

    def fingerprint(self, first: int | None = None) -> str:
        """Return a hash of ids, features and prices of the `first` items (all when None)."""
        digest = hashlib.sha256("\n".join(str(i) for i in self.ids[:first].tolist()).encode())
        digest.update(np.ascontiguousarray(self.features[:first]).data)
        if self.price is not None:
            digest.update(np.ascontiguousarray(self.price[:first]).data)
        return digest.hexdigest()[:16]

    def first(self, n: int) -> Catalogue:
        """Return the first `n` items."""
        return Catalogue(
            self.ids[:n],
            self.features[:n],
            None if self.price is None else self.price[:n],
            {name: column[:n] for name, column in self.attributes.items()},
            self.feature_names,
        )

    def extended(self, ids: Any, features: Any = None, price: Any = None) -> Catalogue:
        """Return this catalogue with new (cold) items appended.

        Args:
            ids: [M] raw ids; those already in the catalogue are ignored.
            features: [M, F] of `ids`; None = the mean features of the catalogue.
            price: [M] of `ids`; None = the mean price of the catalogue.

        Raises:
            InputError: the ids have another type, or a column has the wrong shape.
        """
        ids = raw_ids(ids)
        added = np.flatnonzero(self.index(ids) == EMPTY) if len(ids) else np.zeros(0, int)
        added = added[np.sort(np.unique(ids[added], return_index=True)[1])]
        new_ids = ids[added]
        if not len(new_ids):
            return self
        if new_ids.dtype != self.ids.dtype:
            raise InputError(
                f"a new item id is {new_ids.tolist()[0]!r} where the catalogue has ids such as "
                f"{self.ids.tolist()[0]!r}: give ids of one kind"
            )

        def grow(name: str, column: np.ndarray, fill: Any, given: Any = None) -> np.ndarray:
            if given is None:
                values = np.repeat(np.asarray([fill], column.dtype), len(new_ids), 0)
            else:
                values = np.asarray(given, column.dtype)
                if values.shape != (len(ids), *column.shape[1:]):
                    raise InputError(
                        f"{name} of new items has shape {values.shape}, not "
                        f"{(len(ids), *column.shape[1:])}"
                    )
                values = values[added]
            return np.concatenate([column, values])

        return Catalogue(
            ids=np.concatenate([self.ids, new_ids]),
            features=grow("features", self.features, self.features.mean(0), features),
            price=None
            if self.price is None
            else grow("price", self.price, self.price.mean(), price),
            attributes={k: grow(k, v, np.zeros((), v.dtype)) for k, v in self.attributes.items()},
            feature_names=self.feature_names,
        )

    def validate(self) -> None:
        """Raise `InputError` for an empty catalogue, repeated ids or malformed columns."""
        if not len(self):
            raise InputError("the catalogue is empty: a log needs at least one item")
        columns = {"features": self.features, "price": self.price, **self.attributes}
        _validate("catalogue", "item", self.ids, columns)


@dataclass(frozen=True)
class Users:
    """The users of a log.

    Args:
        ids: [U] raw user ids, int64 or str, unique.
        features: [U, F] float32; F may be 0.
        feature_names: names of the F features, all different; by default feature_0, feature_1, …
    """

    ids: np.ndarray
    features: np.ndarray = None  # type: ignore[assignment]
    feature_names: tuple[str, ...] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        features = np.zeros((len(self.ids), 0)) if self.features is None else self.features
        object.__setattr__(self, "ids", raw_ids(self.ids))
        object.__setattr__(self, "features", frozen(features, np.float32, "features"))
        object.__setattr__(self, "feature_names", _named(self.feature_names, self.features))

    def __len__(self) -> int:
        return len(self.ids)

    def validate(self) -> None:
        """Raise `InputError` for repeated ids or malformed features."""
        _validate("users", "user", self.ids, {"features": self.features})

    def select(self, rows: np.ndarray) -> Users:
        """Return the users of `rows`, in that order."""
        return Users(self.ids[rows], self.features[rows], self.feature_names)
