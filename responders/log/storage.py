"""SessionLog on disk: a folder of Parquet tables and a JSON card, read memory-mapped.

    LOG/slates.parquet     slate, response, time[, propensity]: a row per slate
    LOG/sessions.parquet   n_slates, user: a row per session
    LOG/catalogue.parquet  id[, features, price, attributes]: a row per item
    LOG/users.parquet      id[, features]: a row per user
    LOG/card.json          name, source, licence, whether it is synthetic, how it was made
    LOG/.cache/            slates as memory-mapped .npy files, made when a large log is first loaded

A folder appears under its name only once it is complete.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from responders.errors import InputError
from responders.files import build_folder, lock, new_folder, read_json, write_json
from responders.log import ragged
from responders.log.catalogue import Catalogue, Users

FORMAT = 1
_ROWS = 1 << 15  # rows of a Parquet row group, and so in memory at a time
_SMALL = 1 << 22  # bytes of Parquet below which slates are read into memory
_COLUMNS = {"slate": np.int32, "response": np.uint8, "propensity": np.float32, "time": np.int64}


class LogWriter:
    """Writes a log in chunks of slates; the folder appears once `finish` has been called.

    Use it as a context manager; nothing is left behind after an exception.
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
            incomplete = RuntimeError("LogWriter.finish was not called: the log is incomplete")
            self._pending.__exit__(RuntimeError, incomplete, None)
            raise incomplete
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
        """Write everything except the slates."""
        folder = self.folder
        sessions = {"n_slates": np.asarray(session_length, np.int64), "user": np.asarray(user)}
        pq.write_table(pa.table(sessions), folder / "sessions.parquet")
        item_columns: dict[str, Any] = {"id": catalogue.ids}
        if catalogue.features.shape[1]:
            item_columns["features"] = _to_arrow(catalogue.features, np.float32)
        if catalogue.price is not None:
            item_columns["price"] = catalogue.price
        item_columns |= {f"attribute:{k}": v for k, v in catalogue.attributes.items()}
        pq.write_table(pa.table(item_columns), folder / "catalogue.parquet")
        user_columns: dict[str, Any] = {"id": users.ids}
        if users.features.shape[1]:
            user_columns["features"] = _to_arrow(users.features, np.float32)
        pq.write_table(pa.table(user_columns), folder / "users.parquet", row_group_size=_ROWS)
        write_json(folder / "card.json", {"format": FORMAT, "kind": "session log", **card})
        self._finished = True


def read_columns(path: Path) -> dict[str, Any]:
    """Return the fields of the `SessionLog` in folder `path`; large slates are memory-mapped.

    Raises:
        InputError: the folder is missing, is not a log, or is damaged.
    """
    if not path.exists():
        raise InputError(f"there is no log at {path}: make one with `recsim data convert`")
    card = read_json(path / "card.json", "session log")
    if card.pop("kind", None) != "session log" or card.pop("format", None) != FORMAT:
        raise InputError(f"{path} is not a session log of format {FORMAT}: convert it again")
    sessions, items, users = (
        _read(path / f"{name}.parquet") for name in ("sessions", "catalogue", "users")
    )
    try:
        catalogue = Catalogue(
            ids=items["id"],
            features=items.get("features", np.zeros((len(items["id"]), 0))),
            price=items.get("price"),
            attributes={
                name.removeprefix("attribute:"): column
                for name, column in items.items()
                if name.startswith("attribute:")
            },
        )
        return dict(
            **_map_slates(path / "slates.parquet"),
            session_start=ragged.offsets(sessions["n_slates"]),
            user=sessions["user"],
            catalogue=catalogue,
            users=Users(users["id"], users.get("features", np.zeros((len(users["id"]), 0)))),
            card=card,
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} lacks {error}: the log is damaged, convert it again") from error


def _map_slates(source: Path) -> dict[str, np.ndarray]:
    """Return the columns of slates.parquet, mapped from the cache, which is made if missing.

    A small file is read into memory instead, so that no cache is written.
    """
    if not source.exists():
        raise _damaged(source, FileNotFoundError("it is missing"))
    stat = source.stat()
    if stat.st_size < _SMALL:
        return _read(source)
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
        with lock(cache, wait=True):
            if not stamped.exists():  # another process may have made it meanwhile
                _fill_cache(source, stamped)
    return {file.stem: np.load(file, mmap_mode="r") for file in stamped.glob("*.npy")}


def _fill_cache(source: Path, stamped: Path) -> None:
    try:
        with build_folder(stamped.parent) as building:
            (building / stamped.name).mkdir()
            _decode(source, building / stamped.name)
    except pa.ArrowException as error:
        raise _damaged(source, error) from error


def _decode(source: Path, folder: Path) -> None:
    """Write each column of a Parquet file to a .npy file in `folder`, a batch at a time."""
    with pq.ParquetFile(source, pre_buffer=False) as file, ExitStack() as stack:
        total = file.metadata.num_rows
        written: dict[str, BinaryIO] = {}
        for batch in file.iter_batches(_ROWS):
            for name in batch.schema.names:
                values = _values(batch.column(name))
                if name not in written:
                    written[name] = stack.enter_context(open(folder / f"{name}.npy", "wb"))
                    header = {
                        "descr": np.lib.format.dtype_to_descr(values.dtype),
                        "fortran_order": False,
                        "shape": (total, *values.shape[1:]),
                    }
                    np.lib.format.write_array_header_1_0(written[name], header)
                written[name].write(np.ascontiguousarray(values).data)


def _values(column: pa.Array) -> np.ndarray:
    """Return a column as an array; fixed-size lists become rows of a matrix."""
    if isinstance(column, pa.FixedSizeListArray):
        return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)


def _to_arrow(array: np.ndarray, dtype: Any) -> pa.Array:
    array = np.ascontiguousarray(array, dtype=dtype)
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a small table; fixed-size lists become matrices."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            columns: dict[str, np.ndarray] = {}
            row = 0
            for batch in file.iter_batches(_ROWS):
                for name in batch.schema.names:
                    values = _values(batch.column(name))
                    if name not in columns:
                        shape = (file.metadata.num_rows, *values.shape[1:])
                        columns[name] = np.empty(shape, values.dtype)
                    columns[name][row : row + len(values)] = values
                row += len(batch)
            empty = (name for name in file.schema_arrow.names if name not in columns)
            return columns | {name: np.zeros(0, np.int64) for name in empty}
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"{path} cannot be read ({reason}): the log is damaged, convert it again")
