"""Your own log in a CSV or Parquet file of any size, with a row per shown item.

RAW is one file: text with a header (``.csv``, plain or gzipped) or ``.parquet``; or a folder of
files of one kind with the same columns, read as one file in the order of their names. The columns
are those of `SessionLog.from_frame`, and mean the same. An id column of a text file is integers if
every value is a whole number without leading zeros; otherwise it is text.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from responders.errors import InputError
from responders.log.catalogue import EMPTY, Catalogue, Users
from responders.log.columns import reject
from responders.log.frame import (
    Names,
    first_position,
    of_row,
    one_row_each,
    ordered,
    slates_of,
    typed,
)
from responders.log.session_log import SessionLog
from responders.log.storage import LogWriter
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk
from responders.sources._reading.files import existing_file, raw_path
from responders.sources._reading.parquet import read_parquet
from responders.sources._reading.staged_table import StagedTable, whole_groups
from responders.sources._reading.text import read_text, text_header

_INTEGER = r"0|-?[1-9]\d{0,17}"
_PART = 1 << 40  # more than the lines of any file


def read(
    raw: Path,
    out: Path,
    catalogue: Catalogue | None = None,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    session: str | Sequence[str] = "session",
    item: str = "item",
    click: str = "click",
    step: str | None = None,
    position: str | None = None,
    time: str | None = None,
    user: str | None = None,
    propensity: str | None = None,
    price: str | None = None,
    item_features: Sequence[str] = (),
    user_features: Sequence[str] = (),
) -> SessionLog:
    """Convert `raw` to the log `out`; see `SessionLog.from_frame` for the columns.

    Args:
        raw: the file, or the folder of files.
        out: folder of the log.
        catalogue: keep the index of these items; new items are appended.
        overwrite: replace `out` if it exists.
        chunk_rows: rows in memory at a time.
        session: the column of session ids, or several that identify a session together.
        item: the column of item ids.
        click: the column of clicks.
        step: the column that orders the slates of a session.
        position: the column of the position in the slate.
        time: the column of times.
        user: the column of user ids.
        propensity: the column of propensities.
        price: the column of prices.
        item_features: columns that describe the item.
        user_features: columns that describe the user.
    """
    names = Names(
        session, item, click, step, position, time, user, propensity, price, item_features,
        user_features,
    )  # fmt: skip
    with LogWriter(Path(out), overwrite) as writer:
        scratch = writer.folder / "scratch"
        scratch.mkdir()
        rows = _Rows(raw_path(raw), names, scratch)
        with rows.table:
            rows.stage(chunk_rows)
        _write(writer, rows, rows.catalogue(catalogue))
        shutil.rmtree(scratch)
    return SessionLog.load(out)


def _parts(path: Path) -> list[Path]:
    """Return the file, or the files of the folder."""
    if not path.is_dir():
        return [existing_file(path)]
    kinds = {
        kind: sorted(file for file in path.iterdir() if file.name.endswith(kind))
        for kind in ((".csv", ".csv.gz"), (".parquet",))
    }
    found = [files for files in kinds.values() if files]
    if len(found) != 1:
        what = "both .csv and .parquet files" if found else "no .csv, .csv.gz or .parquet file"
        raise InputError(f"{path} has {what}: give one file, or a folder of files of one kind")
    return found[0]


class _Rows:
    """The typed rows of the file or files, staged to be sorted.

    Attributes:
        parts: the files. The number of a row is its line or row in its file, plus `_PART` for each
            file before.
        found: the name of each field's column.
        known: features and price of each item.
        integers: the id columns of text of which every value is an integer.
        least, most: the lowest and the highest position.
    """

    def __init__(self, path: Path, names: Names, scratch: Path) -> None:
        self.path, self.names, self.parts = path, names, _parts(path)
        self.is_text = self.parts[0].suffix != ".parquet"
        self.unit = "line" if self.is_text else "row"
        self.found = names.found(self._header(self.parts[0]), str(self.parts[0]))
        self.table = StagedTable(scratch / "rows.arrow")
        self.sessions = [f"session{i}" for i in range(len(names.sessions))]
        ids = {*self.sessions, "item", *({"user"} & self.found.keys())}
        self.integers = ids if self.is_text else set()
        self.known: dict[Any, np.ndarray] = {}
        self.least, self.most = np.iinfo(np.int64).max, 0
        self._time_kind: str | None = None

    def _header(self, path: Path) -> list[str]:
        if self.is_text:
            return text_header(path)
        try:
            with path.open("rb") as file:
                return list(pq.read_schema(file).names)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path} cannot be read as Parquet ({reason})") from error

    def fault(self, number: int, column: str, value: Any, why: str) -> InputError:
        """Return the error for the row with this number."""
        part, line = divmod(int(number), _PART)
        shown = repr(value).replace("\n", " ")
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        where = f"{self.parts[part]}, {self.unit} {line}, column {column}"
        return InputError(f"{where}: {shown} {why}")

    def stage(self, chunk_rows: int) -> None:
        """Read, check and stage the files."""
        names = self.names
        features = [*names.item_features, *names.user_features]
        wanted = list(dict.fromkeys([*names.sessions, *self.found.values(), *features]))
        reader = read_text if self.is_text else read_parquet
        chunks = (
            replace(chunk, line=chunk.line + i * _PART)
            for i, path in enumerate(self.parts)
            for chunk in reader(path, wanted, chunk_rows=chunk_rows)
        )
        for chunk in chunks:
            table = self._typed(chunk)
            for name in list(self.integers):
                if not table[name].str.fullmatch(_INTEGER).all():
                    self.integers.remove(name)
            if "position" in table:
                self.least = min(self.least, int(table["position"].min()))
                self.most = max(self.most, int(table["position"].max()))
            self._collect_items(table)
            self.table.add(pa.Table.from_pandas(table, preserve_index=False))

    def _typed(self, chunk: Chunk) -> pd.DataFrame:
        def fault(row: int, column: str, value: Any, why: str) -> InputError:
            return self.fault(int(chunk.line[row]), column, value, why)

        frame = chunk.table.to_pandas()
        for name in frame:
            missing = frame[name].isna()
            if self.is_text:
                missing |= frame[name] == ""
            reject(missing, str(name), frame[name], "is missing", fault)
        if self.is_text and "time" in self.found:
            self._check_time_kind(frame[self.found["time"]], fault)
        table = typed(frame, self.names, self.found, fault)
        table["row"] = chunk.line
        kept = {*self.sessions, "item", "user", "step", "position", "time", "row"}
        for name in table:
            if name not in kept or (name == "step" and "step" not in self.found):
                table[name] = table[name].astype(np.float64)
        return table

    def _check_time_kind(self, column: pd.Series, fault: Any) -> None:
        """Refuse a change from numbers to dates between chunks."""
        is_number = bool(pd.to_numeric(column.iloc[:1], errors="coerce").notna().iloc[0])
        kind = "a number" if is_number else "a date or duration"
        if self._time_kind not in (None, kind):
            raise fault(0, column.name, column.iloc[0], f"is {kind}, earlier times are not")
        self._time_kind = kind

    def _collect_items(self, table: pd.DataFrame) -> None:
        columns = [f"item:{n}" for n in self.names.item_features]
        labels = [*self.names.item_features]
        if self.names.price is not None:
            columns, labels = [*columns, "price"], [*labels, self.names.price]
        values = table[columns].to_numpy(np.float64)
        ids, first, inverse = np.unique(
            table["item"].to_numpy(object), return_index=True, return_inverse=True
        )
        pairs = zip(ids.tolist(), values[first], strict=True)
        expected = np.array([self.known.setdefault(*pair) for pair in pairs])
        for k, label in enumerate(labels):
            differs = values[:, k] != expected[inverse, k]
            why = "differs from another row of the same item; give it one value"
            reject(differs, label, values[:, k], why, of_row(table, self.fault))

    def catalogue(self, given: Catalogue | None) -> Catalogue:
        """Return the items of the file in sorted order, or `given` with new items appended."""
        ids = np.array(list(self.known), dtype=object)
        if "item" in self.integers or (not self.is_text and not isinstance(ids[0], str)):
            ids = ids.astype(np.int64)
        order = np.argsort(ids)
        values = np.array(list(self.known.values()))[order]
        n, has_price = len(self.names.item_features), self.names.price is not None
        price = values[:, n] if has_price else None
        if given is not None:
            return given.extended(ids[order], values[:, :n] if n else None, price)
        features = tuple(self.names.item_features)
        return Catalogue(ids[order], values[:, :n], price, feature_names=features)

    def blocks(self, first: int) -> Iterator[pd.DataFrame]:
        """Yield whole sessions, their rows sorted and checked."""
        last = "position" if "position" in self.found else "row"
        rows = self.table.sorted([*self.sessions, "step", last], integers=self.integers)
        for table, _ in whole_groups(rows, *self.sessions):
            yield ordered(table.to_pandas(), self.found, first, self.fault)


def _write(writer: LogWriter, rows: _Rows, items: Catalogue) -> None:
    """Write the log in blocks of whole sessions."""
    first, width = 0, 0
    if "position" in rows.found:
        first = first_position(rows.least)
        width = rows.most + 1 - first
    else:  # positions are known once the rows are sorted: sort twice
        width = 1 + max(int(block["position"].max()) for block in rows.blocks(0))
    users = _SessionUsers(rows)
    for block in rows.blocks(first):
        made = slates_of(block, items, len(rows.sessions), rows.fault)
        pad = ((0, 0), (0, width - made["slate"].shape[1]))
        propensity = made["propensity"]
        writer.append(
            np.pad(made["slate"], pad, constant_values=EMPTY),
            np.pad(made["response"], pad),
            made["time"],
            None if propensity is None else np.pad(propensity, pad),
        )
        users.add(block, made["session_start"], made["users"])
    card: dict[str, Any] = {"name": rows.path.name.split(".")[0], "source": rows.path.name}
    card |= {"licence": "unknown", "synthetic": False}
    card |= {"converter": {"columns": rows.found, "session": rows.names.sessions}}
    table, user = users.table()
    writer.finish(np.concatenate(users.lengths), user, items, table, card)


class _SessionUsers:
    """The user of each session and its features.

    Attributes:
        lengths: slates of each session, as a list of arrays.
    """

    def __init__(self, rows: _Rows) -> None:
        self.rows, self.names = rows, rows.names.user_features
        self.lengths: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._features: list[np.ndarray] = []
        self._lines: list[np.ndarray] = []
        self._seen = 0

    def add(self, block: pd.DataFrame, start: np.ndarray, user: np.ndarray) -> None:
        """Take the sessions of a block, which begin at the slates `start`, and their users."""
        if "user" not in self.rows.found and len(self.rows.sessions) > 1:
            user = user + self._seen  # users are the numbers of their sessions
        values = block[[f"user:{n}" for n in self.names]].to_numpy(np.float64)
        one_row_each(user[block["slate"]], values, self.names, self.rows.fault, block)
        at = np.searchsorted(block["slate"].to_numpy(), start[:-1])
        self.lengths.append(np.diff(start))
        self._keys.append(user[start[:-1]])
        self._features.append(values[at])
        self._lines.append(block["row"].to_numpy()[at])
        self._seen += len(start) - 1

    def table(self) -> tuple[Users, np.ndarray]:
        """Return the users, and the row of each session's user."""
        keys, values = np.concatenate(self._keys), np.concatenate(self._features)
        lines = pd.DataFrame({"row": np.concatenate(self._lines)})
        ids, features = one_row_each(keys, values, self.names, self.rows.fault, lines)
        return Users(ids, features, tuple(self.names)), np.searchsorted(ids, keys)
