"""Open Bandit Dataset (ZOZO): one item shown at one of three positions, with its propensity.

RAW is the CSV file of one campaign, such as ``random_men.csv.gz``, or a folder with just one. The
same folder has ``random_men_item_context.csv[.gz]`` (or ``item_context.csv[.gz]``). Each row is a
session of one slate of three positions, two of them empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from responders.log.catalogue import Catalogue, Users
from responders.log.session_log import SessionLog
from responders.sources._reading.assemble import assemble
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk
from responders.sources._reading.files import existing, need, only, raw_path
from responders.sources._reading.parse import (
    Ragged,
    distinct_integers,
    floats,
    integers,
    microseconds,
)
from responders.sources._reading.slates import NO_ITEM, Slates, SourceSpec
from responders.sources._reading.text import read_text

_POSITIONS = 3
_USER = [f"user_feature_{k}" for k in range(4)]
_COLUMNS = ["timestamp", "item_id", "position", "click", "propensity_score", *_USER]
_ITEM = [f"item_feature_{k}" for k in range(4)]


def read(
    raw: Path,
    out: Path,
    catalogue: Catalogue | None = None,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
) -> SessionLog:
    """Convert `raw` to the log `out`.

    A user is a tuple of the four hashed user features, and `users.features` has the one-hot code
    of each. Item features are item_feature_0 and the one-hot codes of the other three. The card
    lists the columns of both. The user-item affinities belong to a row, not to a user, and are
    left out.

    Args:
        raw: the CSV file or its folder.
        out: folder of the log.
        catalogue: keep the index of these items; new items are appended.
        overwrite: replace `out` if it exists.
        chunk_rows: rows in memory at a time.
    """
    path = _file(raw_path(raw))
    stem = path.name.split(".csv")[0]
    items, columns = _catalogue(need(path.parent, f"{stem}_item_context.csv", "item_context.csv"))
    users = _Users()
    spec = SourceSpec(
        name=f"open-bandit-{stem.replace('_', '-')}",
        source="Open Bandit Dataset, fashion items shown by a bandit policy",
        licence="CC BY 4.0 (data), Apache-2.0 (repository)",
        items=items,
        make_users=users.table,
        notes={
            "item_feature_columns": columns,
            "left_out": "user-item affinities: they belong to a row, not to a user",
            "positions": "a slate has three; one item was logged, the two others are empty",
        },
    )

    def slates(scratch: Path) -> Iterator[Slates]:
        first = 0
        for chunk in read_text(path, _COLUMNS, chunk_rows=chunk_rows):
            yield _slates(chunk, first, users.code(chunk))
            first += len(chunk)
        spec.notes["user_feature_columns"] = users.columns()

    return assemble(spec, slates, Path(out), catalogue, overwrite)


def _file(raw: Path) -> Path:
    if not existing(raw).is_dir():
        return raw
    found = [p for p in sorted(raw.glob("*.csv*")) if "item_context" not in p.name]
    return only(raw, found, "campaign's CSV file")


def _slates(chunk: Chunk, first: int, user: np.ndarray) -> Slates:
    n = len(chunk)
    position = integers(chunk, "position")
    outside = (position < 1) | (position > _POSITIONS)
    message = f"position {{}} is not 1 to {_POSITIONS}; correct or remove the line"
    chunk.reject(outside, message, position, column="position")
    logged = np.arange(_POSITIONS) == position[:, None] - 1

    def spread(values: np.ndarray, fill: float) -> np.ndarray:
        return np.where(logged, values[:, None], np.asarray(fill, values.dtype)).ravel()

    return Slates(
        path=chunk.path,
        line=chunk.line,
        session=np.arange(first, first + n),
        time=microseconds(chunk, "timestamp") // 1_000_000,
        item=Ragged(spread(integers(chunk, "item_id"), NO_ITEM), np.full(n, _POSITIONS)),
        click=spread(integers(chunk, "click"), 0),
        propensity=spread(floats(chunk, "propensity_score"), 0),
        user=user,
    )


class _Users:
    """Number the tuples of user features in the order of their first row."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], int] = {}

    def code(self, chunk: Chunk) -> np.ndarray:
        """Return [n] int64, the number of each row's user."""
        coded = [chunk.column(c).dictionary_encode() for c in _USER]
        codes = np.stack([np.asarray(c.indices) for c in coded], axis=1)
        rows, first, inverse = np.unique(codes, axis=0, return_index=True, return_inverse=True)
        number = np.zeros(len(rows), np.int64)
        for row in np.argsort(first):  # once per distinct user of the chunk, not per row
            key = tuple(c.dictionary[int(k)].as_py() for c, k in zip(coded, rows[row], strict=True))
            number[row] = self._known.setdefault(key, len(self._known))
        return number[inverse.reshape(-1)]

    def columns(self) -> list[str]:
        """Return the name of each column of the users' features."""
        return self._one_hot()[1]

    def table(self, ids: np.ndarray) -> Users:
        """Return the users numbered `ids`."""
        keys = list(self._known)
        names = np.array(["|".join(keys[i]) for i in ids.tolist()], dtype=object)
        return Users(names, self._one_hot()[0][ids])

    def _one_hot(self) -> tuple[np.ndarray, list[str]]:
        return _one_hot(_USER, [[key[f] for key in self._known] for f in range(len(_USER))])


def _one_hot(names: list[str], values: list[list[str]]) -> tuple[np.ndarray, list[str]]:
    """Return the one-hot codes [n, F] float32 of columns of text, and the name of each code."""
    blocks, columns = [], []
    for name, column in zip(names, values, strict=True):
        known, code = np.unique(np.array(column, dtype=object), return_inverse=True)
        blocks.append(np.eye(len(known), dtype=np.float32)[code])
        columns += [f"{name}={value}" for value in known]
    return np.concatenate(blocks, axis=1), columns


def _catalogue(path: Path) -> tuple[Catalogue, list[str]]:
    table = Chunk.whole(read_text(path, ["item_id", *_ITEM]))
    ids = distinct_integers(table, "item_id")
    codes, columns = _one_hot(_ITEM[1:], [table.column(c).to_pylist() for c in _ITEM[1:]])
    number = floats(table, _ITEM[0]).astype(np.float32)
    features = np.concatenate([number[:, None], codes], axis=1)
    return Catalogue(ids, features), [_ITEM[0], *columns]
