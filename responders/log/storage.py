"""SessionLog on disk: a folder of Parquet tables and a JSON card, read memory-mapped.

    LOG/slates.parquet     slate, response, time[, propensity]: a row per slate
    LOG/sessions.parquet   n_slates, user: a row per session
    LOG/catalogue.parquet  id[, features, price, attributes]: a row per item
    LOG/users.parquet      id[, features]: a row per user (the names of features are metadata)
    LOG/card.json          name, source, licence, whether it is synthetic, how it was made
    LOG/.cache/            slates as memory-mapped .npy files, made when a large log is first loaded

A folder appears under its name only once it is complete.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
_INTEGERS, _IDS, _ROWS_OF_FLOATS = {"int32", "int64"}, {"int64", "string"}, {"rows of float"}
_TYPES: dict[str, dict[str, set[str]]] = {
    "slates": {"slate": {"rows of int32"}, "response": {"rows of uint8"}, "time": {"int64"}},
    "sessions": {"n_slates": _INTEGERS, "user": _INTEGERS},
    "catalogue": {"id": _IDS},
    "users": {"id": _IDS},
}
"""The permitted types of the columns that a file must have."""
_OPTIONAL = {"propensity": _ROWS_OF_FLOATS, "features": _ROWS_OF_FLOATS, "price": {"float"}}
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
        if catalogue.price is not None:
            item_columns["price"] = catalogue.price
        item_columns |= {f"attribute:{k}": v for k, v in catalogue.attributes.items()}
        _write_table(folder / "catalogue.parquet", item_columns, catalogue)
        _write_table(folder / "users.parquet", {"id": users.ids}, users)
        write_json(folder / "card.json", {"format": FORMAT, "kind": "session log", **card})
        self._finished = True


def _write_table(path: Path, columns: dict[str, Any], owner: Catalogue | Users) -> None:
    """Write `columns` and the features of `owner`, whose names are metadata of their field."""
    table = pa.table(columns)
    if owner.features.shape[1]:
        features = _to_arrow(owner.features, np.float32)
        names = {"names": json.dumps(owner.feature_names)}
        table = table.append_column(pa.field("features", features.type, metadata=names), features)
    pq.write_table(table, path, row_group_size=_ROWS)


def read_columns(path: Path) -> tuple[dict[str, Any], Path | None]:
    """Read the log in folder `path`; large slates are memory-mapped.

    Returns:
        The fields of the `SessionLog`, and the file that marks a cached log as validated, None if
        the log is not cached.

    Raises:
        InputError: the folder is missing, is not a log, or is damaged.
    """
    if not path.exists():
        raise InputError(f"there is no log at {path}: make one with `recsim data convert`")
    card = read_json(path / "card.json", "session log")
    if card.pop("kind", None) != "session log" or card.pop("format", None) != FORMAT:
        raise InputError(f"{path} is not a session log of format {FORMAT}: convert it again")
    for name, kind in {"name": str, "source": str, "licence": str, "synthetic": bool}.items():
        if not isinstance(card.get(name, kind()), kind):
            raise InputError(f"{path / 'card.json'}: {name} is {card[name]!r}, not {kind.__name__}")
    slates, cache = _map_slates(path / "slates.parquet")
    sessions, items, users = (
        _read(path / f"{name}.parquet") for name in ("sessions", "catalogue", "users")
    )
    item_features: Any = items.get("features")
    user_features: Any = users.get("features")
    catalogue = Catalogue(
        ids=items["id"],
        features=item_features,
        price=items.get("price"),
        attributes={
            name.removeprefix("attribute:"): column
            for name, column in items.items()
            if name.startswith("attribute:")
        },
        feature_names=_feature_names(path / "catalogue.parquet"),
    )
    columns = dict(
        **slates,
        session_start=ragged.offsets(sessions["n_slates"]),
        user=sessions["user"],
        catalogue=catalogue,
        users=Users(users["id"], user_features, _feature_names(path / "users.parquet")),
        card=card,
    )
    return columns, cache


def _feature_names(path: Path) -> Any:
    """Return the names stored with the features of a table, None if there are none."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        schema = file.schema_arrow
    if "features" not in schema.names:
        return None
    stored = (schema.field("features").metadata or {}).get(b"names")
    try:
        names = None if stored is None else json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if names is not None and not isinstance(names, list):
        raise _damaged(path, TypeError(f"the names of its features are {names!r}, not a list"))
    return names


def _map_slates(source: Path) -> tuple[dict[str, np.ndarray], Path | None]:
    """Return the columns of slates.parquet, mapped from the cache, which is made if missing.

    A small file is read into memory instead, so that no cache is written. The cache belongs to the
    four files of the log as they are; the file that is returned marks their contents as valid.
    """
    if not source.exists():
        raise _damaged(source, FileNotFoundError("it is missing"))
    if source.stat().st_size < _SMALL:
        return _read(source), None
    files = [file.stat() for file in sorted(source.parent.glob("*.parquet"))]
    stamp = "-".join(f"{stat.st_size}-{stat.st_mtime_ns}" for stat in files)
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
                with _readable(source), build_folder(cache) as building:
                    (building / stamp).mkdir()
                    _decode(source, building / stamp)
    columns = {file.stem: np.load(file, mmap_mode="r") for file in stamped.glob("*.npy")}
    return columns, stamped / "checked"


def _decode(source: Path, folder: Path) -> None:
    """Write each column of a Parquet file to a .npy file in `folder`, a batch at a time."""
    with pq.ParquetFile(source, pre_buffer=False) as file, ExitStack() as stack:
        names = _known_columns(source, file.schema_arrow)
        total = file.metadata.num_rows
        written: dict[str, BinaryIO] = {}
        for batch in file.iter_batches(_ROWS, columns=names):
            for name in names:
                values = _values(source, name, batch.column(name))
                if name not in written:
                    written[name] = stack.enter_context(open(folder / f"{name}.npy", "wb"))
                    header = {
                        "descr": np.lib.format.dtype_to_descr(values.dtype),
                        "fortran_order": False,
                        "shape": (total, *values.shape[1:]),
                    }
                    np.lib.format.write_array_header_1_0(written[name], header)
                written[name].write(np.ascontiguousarray(values).data)


def _known_columns(path: Path, schema: pa.Schema) -> list[str]:
    """Return the columns of a file that the log has; raise `InputError` for a fault in them."""
    required = _TYPES[path.stem]
    for name in required:
        if name not in schema.names:
            raise _damaged(path, KeyError(f"it has no column {name}"))
    names = [n for n in schema.names if n in {*required, *_OPTIONAL} or n.startswith("attribute:")]
    for name in names:
        if names.count(name) > 1:
            raise _damaged(path, KeyError(f"it has two columns {name}"))
        kind = schema.field(name).type
        is_rows = pa.types.is_fixed_size_list(kind)
        found = f"rows of {kind.value_type}" if is_rows else str(kind)
        permitted = (required | _OPTIONAL).get(name)
        if permitted is None:  # an attribute
            plain = pa.types.is_integer(kind) or pa.types.is_floating(kind)
            fits = plain or pa.types.is_boolean(kind) or pa.types.is_string(kind)
            permitted = {found} if fits else {"numbers", "text"}
        if found not in permitted:
            reason = f"column {name} has the type {found}, not {' or '.join(sorted(permitted))}"
            raise _damaged(path, TypeError(reason))
    return names


def _values(path: Path, name: str, column: pa.Array) -> np.ndarray:
    """Return a column as an array; fixed-size lists become rows of a matrix."""
    is_rows = isinstance(column, pa.FixedSizeListArray)
    flat = column.flatten() if is_rows else column
    if column.null_count or flat.null_count:
        raise _damaged(path, ValueError(f"a value of column {name} is missing"))
    if is_rows:
        return np.asarray(flat).reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)


def _to_arrow(array: np.ndarray, dtype: Any) -> pa.Array:
    array = np.ascontiguousarray(array, dtype=dtype)
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _read(path: Path) -> dict[str, Any]:
    """Return the columns of a small table; fixed-size lists become matrices."""
    with _readable(path), pq.ParquetFile(path, pre_buffer=False) as file:
        columns: dict[str, Any] = {}
        names = _known_columns(path, file.schema_arrow)
        row = 0
        for batch in file.iter_batches(_ROWS, columns=names):
            for name in names:
                values = _values(path, name, batch.column(name))
                if name not in columns:
                    shape = (file.metadata.num_rows, *values.shape[1:])
                    columns[name] = np.empty(shape, values.dtype)
                columns[name][row : row + len(values)] = values
            row += len(batch)
        return columns or {name: np.zeros(0, np.int64) for name in names}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn any error of reading a Parquet file into `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error.args[0] if isinstance(error, KeyError) else error).split("\n")[0]
    reason = reason or type(error).__name__
    return InputError(f"{path} cannot be read ({reason}): the log is damaged, convert it again")
