"""The assembler every reader shares: chunks of slates, in any order, become one SessionLog.

Slates are checked, staged in a Parquet file, sorted by session and time out of core (DuckDB),
grouped into sessions, filtered, and written. Memory holds a chunk, the longest session, the ids
of items and, per kept session, its length and user; never the file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from responders.errors import InputError
from responders.log.catalogue import EMPTY, Catalogue, Users
from responders.log.session_log import SessionLog
from responders.log.storage import LogWriter
from responders.sources._reading.parse import Ragged
from responders.sources._reading.slates import NO_ITEM, Slates, Spec, check
from responders.sources._reading.staging import (
    GROUP,
    ParquetSink,
    flat,
    sort_by,
    to_lists,
    whole_groups,
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
                check(slates, self.spec)
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
        for batch in file.iter_batches(max(1, min(GROUP, (1 << 20) // width))):
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
