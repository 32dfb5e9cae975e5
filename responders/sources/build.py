"""The assembler every reader shares: chunks of slates, in any order, become one SessionLog.

Slates are checked, staged in a Parquet file, sorted by session and time out of core (DuckDB),
grouped into sessions, filtered, and written. Memory holds a chunk, the longest session, the ids
of items and, per kept session, its length and user; never the file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from responders.errors import InputError
from responders.log import EMPTY, Catalogue, SessionLog, Users
from responders.sources.raw import Ragged
from responders.storage import LogWriter

NO_ITEM = np.iinfo(np.int64).min
"""The raw item id of an empty position."""

_GROUP = 1 << 15  # slates in a row group of a staged file
_LATEST = 10**11  # seconds; later times are surely milliseconds
_MEMORY, _THREADS = "128MB", 1


@dataclass(frozen=True)
class Slates:
    """Some slates as they stand in the raw file, n lists of m items in all.

    Args:
        path: the file.
        line: [n] int64, where each slate stands in it.
        session: [n] raw session ids, int64 or str; sorted by, they give the order of sessions.
        time: [n] int64 seconds.
        item: raw item ids, int64 values [m]; NO_ITEM = empty position.
        click: [m] int64, 0 or 1.
        fine: [n] int64, orders the slates of a session that fall in the same second.
        user: [n] int64 where a session's id is not its user's id.
        propensity: [m] float64.
        portrait: numbers that describe the user, as many in every slate, or none.
        unit: "line" or "row", what `line` counts.
    """

    path: Path
    line: np.ndarray
    session: np.ndarray
    time: np.ndarray
    item: Ragged
    click: np.ndarray
    fine: np.ndarray | None = None
    user: np.ndarray | None = None
    propensity: np.ndarray | None = None
    portrait: Ragged | None = None
    unit: str = "line"

    def fail(self, bad: np.ndarray, values: np.ndarray, what: str, each: str = "slate") -> None:
        """Raise `InputError` at the first bad slate [n] or, each="item", the first bad item [m].

        Args:
            bad: where it is wrong.
            values: of the same shape; the bad one takes the place of {} in `what`.
            what: the message.
            each: what `bad` and `values` run over.
        """
        if bad.any():
            at = int(np.argmax(bad))
            row = at if each == "slate" else int(self.item.row[at])
            where = f"{self.path}, {self.unit} {int(self.line[row])}"
            raise InputError(f"{where}: {what.format(values[at])}")


@dataclass
class Spec:
    """What a source is and how its sessions are made.

    Args:
        name: name of the log.
        source: what it is, in words.
        licence: of the data.
        options: the converter's options, for the card.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
        clock: False where the file has an order and no times: time is then the slate's number
            within its session.
        together: whether the slates of a session must be consecutive in the file.
        unique: name of the column given as `fine` that must not repeat within a session.
        items: the format's own table of items; a slate may show no other.
        users: makes the users from the sorted distinct `user` ids.
        notes: further entries of the card, which may be filled in while reading.
        counts: likewise, further counts.
        max_positions: positions of a slate beyond so many are cut off; None = none.
    """

    name: str
    source: str
    licence: str
    options: dict[str, Any] = field(default_factory=dict)
    min_slates: int = 1
    max_slates: int | None = None
    clock: bool = True
    together: bool = False
    unique: str | None = None
    items: Catalogue | None = None
    users: Callable[[np.ndarray], Users] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    max_positions: int | None = None

    def __post_init__(self) -> None:
        if self.min_slates < 1 or (self.max_slates or self.min_slates) < self.min_slates:
            raise InputError(
                f"min_slates {self.min_slates} and max_slates {self.max_slates} leave no session: "
                "give 1 <= min_slates <= max_slates"
            )
        if self.max_positions is not None and self.max_positions < 1:
            raise InputError(
                f"max_positions {self.max_positions} leaves no position: give 1 or more"
            )


def build(
    spec: Spec,
    read: Callable[[Path], Iterator[Slates]],
    out: Path,
    catalogue: Catalogue | None = None,
    overwrite: bool = False,
) -> SessionLog:
    """Write the slates of `read` as the log `out` and load it.

    Args:
        spec: what the source is.
        read: yields the slates, given a folder for scratch files.
        out: folder of the log.
        catalogue: keep its item index, append items new to it; by default the source's own
            items, else the items of the kept sessions in sorted order.
        overwrite: replace `out` where it exists.

    Raises:
        InputError: a fault in the raw data, or no session is kept.
    """
    with LogWriter(out, overwrite) as writer:
        scratch = writer.folder / "scratch"
        scratch.mkdir()
        staged = _Staged(spec, scratch)
        staged.fill(read(scratch))
        with _Sessions(spec, scratch, staged) as sessions:
            ordered = sort_by(staged.path, staged.columns, staged.order, scratch)
            for table, first in whole_groups(ordered, "session"):
                sessions.add(table, first)
            sessions.check_any()
        items = _items(spec, catalogue, sessions.ids)
        items.validate()
        counts = spec.counts | staged.counts | sessions.counts | {"items": len(items)}
        if catalogue is not None:
            counts["cold_items"] = len(items) - len(catalogue)
        _write_slates(writer, sessions.path, items, sessions.width)
        users, user = sessions.users()
        card: dict[str, Any] = {"name": spec.name, "source": spec.source, "licence": spec.licence}
        card |= {"synthetic": False, "files": [p.name for p in staged.paths]}
        card |= {"converter": spec.options, "counts": counts, **spec.notes}
        writer.finish(np.concatenate(sessions.length), user, items, users, card)
        del users  # its features may be mapped from the folder that goes now
        shutil.rmtree(scratch)
    return SessionLog.load(out)


def _items(spec: Spec, catalogue: Catalogue | None, shown: np.ndarray) -> Catalogue:
    if catalogue is not None:
        return catalogue.extended(shown)
    return spec.items if spec.items is not None else Catalogue(shown)


# --- staging -----------------------------------------------------------------------------------


class ParquetSink:
    """Write tables to a Parquet file in row groups of a fixed size, whatever theirs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ParquetSink:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, table: pa.Table) -> None:
        """Append a table; all have the schema of the first."""
        self._waiting.append(table)
        self._rows += len(table)
        if self._rows >= _GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema, compression="lz4")
        self._writer.write_table(table, row_group_size=_GROUP)
        self._waiting, self._rows = [], 0


def to_lists(values: np.ndarray, length: np.ndarray, dtype: Any) -> pa.Array:
    """Return n lists as an Arrow array."""
    offset = np.zeros(len(length) + 1, np.int32)
    np.cumsum(length, out=offset[1:])
    return pa.ListArray.from_arrays(pa.array(offset), pa.array(values.astype(dtype, copy=False)))


def flat(column: Any, dtype: Any) -> Ragged:
    """Return an Arrow column of lists as `Ragged`."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = np.asarray(column.flatten()).astype(dtype, copy=False)
    return Ragged(values, np.asarray(column.value_lengths()).astype(np.int64))


class _Staged:
    """All slates of a source in one Parquet file."""

    def __init__(self, spec: Spec, scratch: Path) -> None:
        self.spec, self.path = spec, scratch / "staged.parquet"
        self.paths: dict[Path, str] = {}
        self.counts = {"slates_read": 0, "slates_empty": 0}
        self._portraits: set[int] = set()

    def fill(self, chunks: Iterator[Slates]) -> None:
        """Check and stage every slate that shows an item."""
        with ParquetSink(self.path) as sink:
            for slates in chunks:
                _check(slates, self.spec)
                sink.add(self._table(self._cut(slates)))
        if self.counts["slates_read"] == self.counts["slates_empty"]:
            raise InputError("the source has no slate that shows an item")
        self.columns = pq.read_schema(self.path).names
        self.order = [c for c in ("session", "time", "fine", "number") if c in self.columns]
        if len(self._portraits) > 1 or 0 in self._portraits:
            self.columns.remove("portrait")
            self.spec.notes["user_features"] = (
                "left out: they are not the same number of numbers in every row"
            )

    def _cut(self, slates: Slates) -> Slates:
        if self.spec.max_positions is None:
            return slates
        most, counts = self.spec.max_positions, self.spec.counts
        keep = slates.item.place < most
        lost = int(slates.click[~keep].sum())
        counts["clicks_cut_off"] = counts.get("clicks_cut_off", 0) + lost
        p = slates.propensity
        return replace(
            slates,
            item=Ragged(slates.item.values[keep], np.minimum(slates.item.length, most)),
            click=slates.click[keep],
            propensity=None if p is None else p[keep],
        )

    def _table(self, slates: Slates) -> pa.Table:
        n, item = len(slates.line), slates.item
        self.paths.setdefault(slates.path, slates.unit)
        file = list(self.paths).index(slates.path)
        first = self.counts["slates_read"]
        columns: dict[str, Any] = {
            "session": slates.session,
            "time": slates.time,
            "fine": slates.fine,
            "number": np.arange(first, first + n),
            "file": np.full(n, file, np.int16),
            "line": slates.line,
            "user": slates.user,
            "item": to_lists(item.values, item.length, np.int64),
            "click": to_lists(slates.click, item.length, np.uint8),
        }
        if slates.propensity is not None:
            columns["propensity"] = to_lists(slates.propensity, item.length, np.float32)
        if slates.portrait is not None:
            self._portraits |= set(np.unique(slates.portrait.length).tolist())
            portrait = slates.portrait
            columns["portrait"] = to_lists(portrait.values, portrait.length, np.float32)
        table = pa.table({k: v for k, v in columns.items() if v is not None})
        filled = np.zeros(n, bool)
        filled[item.row[item.values != NO_ITEM]] = True
        self.counts["slates_read"] += n
        self.counts["slates_empty"] += int((~filled).sum())
        return table if filled.all() else table.filter(pa.array(filled))


def _check(slates: Slates, spec: Spec) -> None:
    """Raise `InputError` for a fault that one chunk can show."""
    item, click = slates.item.values, slates.click
    slates.fail(slates.time < 0, slates.time, "time {} is negative; give seconds since an origin")
    late = slates.time > _LATEST
    slates.fail(late, slates.time, "time {} s is beyond the year 5000; are these milliseconds?")
    wrong = (click != 0) & (click != 1)
    slates.fail(wrong, click, "click {} is neither 0 nor 1", "item")
    empty = item == NO_ITEM
    slates.fail((click == 1) & empty, click, "click {} on an empty position", "item")
    if spec.items is not None:
        known = (spec.items.index(item) != EMPTY) | empty
        what = "item {} is not in the item table; correct the row or the table"
        slates.fail(~known, item, what, "item")
    if slates.propensity is not None:
        p = slates.propensity
        slates.fail(~((p > 0) & (p <= 1)) & ~empty, p, "propensity {} is not in (0, 1]", "item")


def sort_by(path: Path, columns: list[str], order: list[str], scratch: Path) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file sorted by `order`, out of core, some thousand at a time."""
    spill = scratch / f"sort-{path.stem}"
    spill.mkdir()
    config: dict[str, Any] = {
        "memory_limit": _MEMORY,
        "threads": _THREADS,
        "temp_directory": str(spill),
    }
    chosen, keys = (", ".join(f'"{c}"' for c in names) for names in (columns, order))
    try:
        with (
            pq.ParquetFile(path, pre_buffer=False) as file,
            duckdb.connect(config=config) as connection,
            _bar(file.metadata.num_rows) as bar,
        ):
            schema = pa.schema([file.schema_arrow.field(c) for c in columns])
            batches = file.iter_batches(_GROUP // 8, columns=columns)
            stream = (batch.select(columns) for batch in batches)
            connection.register("staged", pa.RecordBatchReader.from_batches(schema, stream))
            relation = connection.sql(f"SELECT {chosen} FROM staged ORDER BY {keys}")
            modern = getattr(relation, "to_arrow_reader", None)
            for batch in (modern or relation.fetch_arrow_reader)(_GROUP // 4):
                bar.update(len(batch))
                yield pa.Table.from_batches([batch])
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"sorting in {scratch.parent.parent} failed ({reason}): is the disk full?"
        ) from error
    shutil.rmtree(spill, ignore_errors=True)


def _bar(rows: int) -> tqdm:
    return tqdm(
        total=rows, unit="row", unit_scale=True, desc="sorting", leave=False, disable=None, delay=1
    )


def whole_groups(tables: Iterator[pa.Table], key: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Regroup sorted tables so that no group is cut: yield (table, first row of each group)."""
    rest: pa.Table | None = None
    for table in tables:
        table = table if rest is None else pa.concat_tables([rest, table])
        first = _group_starts(table.column(key))
        if len(first) > 1:
            yield table.slice(0, first[-1]), first[:-1]
        rest = table.slice(first[-1])
    if rest is not None and len(rest):
        yield rest, _group_starts(rest.column(key))


def _group_starts(column: pa.ChunkedArray) -> np.ndarray:
    ids = column.to_numpy()
    return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))


# --- sessions ----------------------------------------------------------------------------------


class _Sessions:
    """Group sorted slates into sessions; keep those of the wanted length and stage them again."""

    def __init__(self, spec: Spec, scratch: Path, staged: _Staged) -> None:
        self.spec, self.paths = spec, staged.paths
        self.path = scratch / "kept.parquet"
        self.ids = np.zeros(0, np.int64)
        self.width = 0
        self.length: list[np.ndarray] = []
        self._owner: list[np.ndarray] = []
        self._longest = 0
        names = "sessions_read sessions_kept sessions_too_short sessions_too_long slates_kept"
        self.counts = dict.fromkeys(f"{names} clicks ties_moved".split(), 0)
        self._sink = ParquetSink(self.path)
        self._portraits = scratch / "portraits.f32"
        self._n_portrait = 0

    def __enter__(self) -> _Sessions:
        return self

    def __exit__(self, *error: Any) -> None:
        self._sink.__exit__(*error)

    def add(self, table: pa.Table, first: np.ndarray) -> None:
        """Take whole sessions; session e begins in row first[e]."""
        length = np.diff(np.append(first, len(table)))
        self._check(table, first, length)
        short = length < self.spec.min_slates
        long = length > (self.spec.max_slates or length.max())
        keep = ~(short | long)
        self._longest = max(self._longest, int(length.max()))
        self.counts["sessions_read"] += len(first)
        self.counts["sessions_too_short"] += int(short.sum())
        self.counts["sessions_too_long"] += int(long.sum())
        if not keep.any():
            return
        if not keep.all():
            table = table.filter(pa.array(np.repeat(keep, length)))
            length = length[keep]
            first = np.cumsum(length) - length
        self._keep(table, first, length)

    def _keep(self, table: pa.Table, first: np.ndarray, length: np.ndarray) -> None:
        item, click = flat(table.column("item"), np.int64), table.column("click")
        time = np.arange(len(table)) - np.repeat(first, length)
        if self.spec.clock:
            raw = table.column("time").to_numpy()
            time = _spread(raw, first, length)
            self.counts["ties_moved"] += int((time != raw).sum())
        columns = {"time": pa.array(time), "item": table.column("item"), "click": click}
        if "propensity" in table.column_names:
            columns["propensity"] = table.column("propensity")
        self._sink.add(pa.table(columns))
        shown = np.unique(item.values)
        self.ids = np.union1d(self.ids, shown[shown != NO_ITEM])
        self.width = max(self.width, int(item.length.max()))
        self.length.append(length.astype(np.int32))
        owner = "user" if "user" in table.column_names else "session"
        self._owner.append(table.column(owner).to_numpy()[first])
        self.counts["sessions_kept"] += len(length)
        self.counts["slates_kept"] += len(table)
        self.counts["clicks"] += int(flat(click, np.int64).values.sum())
        if "portrait" in table.column_names:
            portrait = flat(table.column("portrait").take(pa.array(first)), np.float32)
            self._n_portrait = int(portrait.length[0])
            with self._portraits.open("ab") as file:
                portrait.values.tofile(file)

    def _check(self, table: pa.Table, first: np.ndarray, length: np.ndarray) -> None:
        """Raise `InputError` for a fault that only a whole session shows."""
        if self.spec.together:
            gap = np.diff(table.column("number").to_numpy(), prepend=0) != 1
            gap[first] = False
            self._fail(gap, table, "the session {} is taken up again; its lines must be together")
        if "user" in table.column_names:
            user = table.column("user").to_numpy()
            self._fail(user != np.repeat(user[first], length), table, "session {} has two users")
        if self.spec.unique:
            fine, session = table.column("fine").to_numpy(), np.repeat(first, length)
            order = np.lexsort((fine, session))
            again = np.zeros(len(table), bool)
            same = (np.diff(fine[order]) == 0) & (np.diff(session[order]) == 0)
            again[order[1:][same]] = True
            self._fail(again, table, f"session {{}} has this {self.spec.unique} twice")

    def _fail(self, bad: np.ndarray, table: pa.Table, what: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            session, file, line = (
                table.column(c)[row].as_py() for c in ("session", "file", "line")
            )
            path, unit = list(self.paths.items())[file]
            raise InputError(f"{path}, {unit} {line}: {what.format(session)}")

    def check_any(self) -> None:
        """Raise `InputError` unless a session was kept."""
        if not self.length:
            least, most = self.spec.min_slates, self.spec.max_slates
            raise InputError(
                f"no session has {least} slates or more{f' and at most {most}' if most else ''}: "
                f"there are {self.counts['sessions_read']} sessions, the longest of "
                f"{self._longest} slates; give other bounds (min_slates, max_slates)"
            )

    def users(self) -> tuple[Users, np.ndarray]:
        """Return the users and the row [E] of each kept session's user in them."""
        owner = np.concatenate(self._owner)
        ids, user = np.unique(owner, return_inverse=True)
        if self.spec.users is not None:
            return self.spec.users(ids), user.astype(np.int32)
        if not self._n_portrait:
            return Users(ids), user.astype(np.int32)
        shape = (len(owner), self._n_portrait)
        features = np.memmap(self._portraits, np.float32, "r", shape=shape)
        return Users(owner, features), np.arange(len(owner), dtype=np.int32)


def _spread(time: np.ndarray, first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the times [n], each session's sorted, moved on just enough to differ."""
    step = np.arange(len(time)) - np.repeat(first, length)
    base = time - step
    lift = np.repeat(np.arange(len(first)), length) * (int(np.ptp(base)) + 1)
    return np.maximum.accumulate(base + lift) - lift + step


def _write_slates(writer: LogWriter, path: Path, items: Catalogue, width: int) -> None:
    """Append the kept slates, padded to `width` positions, as indices of `items`."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(max(1, min(_GROUP, (1 << 20) // width))):
            item = flat(batch.column("item"), np.int64)
            shape, place = (len(batch), width), (item.row, item.place)
            slate, response = np.full(shape, EMPTY, np.int32), np.zeros(shape, np.uint8)
            slate[place] = items.index(item.values)
            response[place] = flat(batch.column("click"), np.uint8).values
            propensity = None
            if "propensity" in batch.schema.names:
                propensity = np.zeros(shape, np.float32)
                propensity[place] = flat(batch.column("propensity"), np.float32).values
            writer.append(slate, response, batch.column("time").to_numpy(), propensity)
