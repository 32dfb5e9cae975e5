"""SessionLog on disk: a folder of Parquet tables and a JSON card, read memory-mapped.

    LOG/slates.parquet     slate, response, time[, propensity]: a row per slate
    LOG/sessions.parquet   n_slates, user: a row per session
    LOG/catalogue.parquet  id[, features, price, attributes]: a row per item
    LOG/users.parquet      id[, features]: a row per user
    LOG/card.json          name, source, licence, synthetic or not, how made
    LOG/.cache/            the slates decoded into .npy files, made on first load, mapped after

A folder appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from responders.errors import InputError
from responders.log import Catalogue, SessionLog, Users

FORMAT = 1
_ROWS = 1 << 17  # slates in a row group
_COLUMNS = {"slate": np.int32, "response": np.uint8, "propensity": np.float32, "time": np.int64}


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends without an exception.

    Raises:
        InputError: `path` exists and `overwrite` is False, or its parent is not writable.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: choose another name or remove it first")
    building = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        building.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror}") from error
    try:
        yield building
        if path.exists():
            shutil.rmtree(path)
        os.replace(building, path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON to a temporary name and rename it to `path`."""
    building = path.with_name(path.name + ".tmp")
    building.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(building, path)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object, or raise `InputError` that calls the file `what`."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path.parent} is not a {what}: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): the {what} is damaged") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object: the {what} is damaged")
    return content


class LogWriter:
    """Write a log slate chunk by slate chunk; the folder appears when `finish` has been called.

    Use as a context manager; on an exception nothing stays behind.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self._pending = new_folder(Path(path), overwrite)
        self._writer: pq.ParquetWriter | None = None
        self._finished = False

    def __enter__(self) -> LogWriter:
        self.folder = self._pending.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        if error is None and not self._finished:
            error = RuntimeError("LogWriter.finish was not called")
            kind = RuntimeError
        self._pending.__exit__(kind, error, trace)

    def append(
        self,
        slate: np.ndarray,
        response: np.ndarray,
        time: np.ndarray,
        propensity: np.ndarray | None = None,
    ) -> None:
        """Append slates [n, S] with their responses, times [n] and propensities, in final order."""
        arrays = {"slate": slate, "response": response, "propensity": propensity, "time": time}
        table = pa.table({k: _to_arrow(v, _COLUMNS[k]) for k, v in arrays.items() if v is not None})
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self.folder / "slates.parquet", table.schema, compression="zstd"
            )
        self._writer.write_table(table, row_group_size=_ROWS)

    def finish(
        self,
        session_length: np.ndarray,
        user: np.ndarray,
        catalogue: Catalogue,
        users: Users,
        card: dict[str, Any],
    ) -> None:
        """Write everything but the slates."""
        folder = self.folder
        sessions = {"n_slates": np.asarray(session_length, np.int64), "user": np.asarray(user)}
        pq.write_table(pa.table(sessions), folder / "sessions.parquet")
        items: dict[str, Any] = {"id": catalogue.ids}
        if catalogue.features.shape[1]:
            items["features"] = _to_arrow(catalogue.features, np.float32)
        if catalogue.price is not None:
            items["price"] = catalogue.price
        items |= {f"attribute:{k}": v for k, v in catalogue.attributes.items()}
        pq.write_table(pa.table(items), folder / "catalogue.parquet")
        people: dict[str, Any] = {"id": users.ids}
        if users.features.shape[1]:
            people["features"] = _to_arrow(users.features, np.float32)
        pq.write_table(pa.table(people), folder / "users.parquet")
        write_json(folder / "card.json", {"format": FORMAT, "kind": "session log", **card})
        self._finished = True


def save_log(log: SessionLog, path: Path, overwrite: bool = False) -> Path:
    """Validate `log` and write it to the folder `path`, which appears when complete.

    Raises:
        InputError: the log is not valid, or `path` exists and `overwrite` is False.
    """
    log.validate()
    with LogWriter(path, overwrite) as writer:
        for first in range(0, log.n_slates, _ROWS):
            rows = slice(first, first + _ROWS)
            propensity = None if log.propensity is None else log.propensity[rows]
            writer.append(log.slate[rows], log.response[rows], log.time[rows], propensity)
        writer.finish(log.session_length, log.user, log.catalogue, log.users, log.card)
    return path


def load_log(path: Path) -> SessionLog:
    """Load the log in folder `path`; its slates are memory-mapped, read as they are used.

    Raises:
        InputError: the folder is missing, is not a log, or a file of it is damaged.
    """
    if not path.exists():
        raise InputError(f"there is no log at {path}: make one with `recsim data convert`")
    card = read_json(path / "card.json", "session log")
    if card.pop("kind", None) != "session log" or card.pop("format", None) != FORMAT:
        raise InputError(f"{path} is not a session log of format {FORMAT}: convert it anew")
    sessions, items, people = (
        _read(path / f"{name}.parquet") for name in ("sessions", "catalogue", "users")
    )
    catalogue = Catalogue(
        ids=_ids(items),
        features=_features(items),
        price=_column(items, "price") if "price" in items.column_names else None,
        attributes={
            name.removeprefix("attribute:"): _column(items, name)
            for name in items.column_names
            if name.startswith("attribute:")
        },
    )
    length = _column(sessions, "n_slates")
    try:
        return SessionLog(
            **_map_slates(path / "slates.parquet"),
            session_start=np.concatenate([[0], np.cumsum(length)]),
            user=_column(sessions, "user"),
            catalogue=catalogue,
            users=Users(_ids(people), _features(people)),
            card=card,
        )
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise _damaged(path / "slates.parquet", error) from error


def _map_slates(source: Path) -> dict[str, np.ndarray]:
    """Return the columns of slates.parquet as arrays mapped from the cache, made if absent."""
    stat = source.stat()
    stamp = f"{stat.st_size}-{stat.st_mtime_ns}"
    cache = source.parent / ".cache"
    if not os.access(source.parent, os.W_OK):
        name = f"recsim-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
        cache = (
            Path(tempfile.gettempdir())
            / name
            / uuid.uuid5(uuid.NAMESPACE_URL, str(source.resolve())).hex
        )
    stamped = cache / stamp
    if not stamped.exists():
        shutil.rmtree(cache, ignore_errors=True)
        with new_folder(stamped, overwrite=True) as building:
            _decode(source, building)
    return {file.stem: np.load(file, mmap_mode="r") for file in stamped.glob("*.npy")}


def _decode(source: Path, folder: Path) -> None:
    with pq.ParquetFile(source) as file:
        total = file.metadata.num_rows
        mapped: dict[str, np.memmap] = {}
        row = 0
        for batch in file.iter_batches(_ROWS):
            for name in batch.schema.names:
                column = batch.column(name)
                if isinstance(column, pa.FixedSizeListArray):
                    values = np.asarray(column.flatten()).reshape(-1, column.type.list_size)
                else:
                    values = np.asarray(column)
                if name not in mapped:
                    target, shape = str(folder / f"{name}.npy"), (total, *values.shape[1:])
                    mapped[name] = np.lib.format.open_memmap(target, "w+", values.dtype, shape)
                mapped[name][row : row + len(values)] = values
            row += len(batch)
        for array in mapped.values():
            array.flush()


def _to_arrow(array: np.ndarray, dtype: Any) -> pa.Array:
    array = np.ascontiguousarray(array, dtype=dtype)
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"{path} cannot be read ({reason}): the log is damaged, convert it anew")


def _column(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        raise InputError(f"the log is damaged: a table lacks column {name!r}; convert it anew")
    return table.column(name).to_numpy()


def _ids(table: pa.Table) -> np.ndarray:
    return _column(table, "id")


def _features(table: pa.Table) -> np.ndarray:
    if "features" not in table.column_names:
        return np.zeros((len(table), 0), np.float32)
    column = table.column("features").combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1)
