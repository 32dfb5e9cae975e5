"""Group sorted slates into sessions and keep those with a wanted number of slates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from responders.errors import InputError
from responders.log import ragged
from responders.log.catalogue import Users
from responders.sources._reading.slates import NO_ITEM, SourceSpec
from responders.sources._reading.staged_table import StagedTable, flat

_COUNTS = (
    "sessions_read",
    "sessions_kept",
    "sessions_too_short",
    "sessions_too_long",
    "slates_kept",
    "clicks",
    "ties_moved",
)


class Sessions:
    """Stage the slates of the kept sessions.

    Args:
        spec: what the source is.
        scratch: folder for files.
        units: "line" or "row", what the slates' `line` counts, by raw file.

    Attributes:
        table: time, item, click[, propensity] of the kept slates, in their final order.
        item_ids: sorted raw ids of the items shown.
        width: positions of the widest slate.
        length: slates per session, as a list of int32 arrays.
        counts: what was read, kept and left out.
    """

    def __init__(self, spec: SourceSpec, scratch: Path, units: dict[Path, str]) -> None:
        self.spec, self._files = spec, list(units.items())
        self.table = StagedTable(scratch / "kept.arrow")
        self.item_ids = np.zeros(0, np.int64)
        self.width = 0
        self.length: list[np.ndarray] = []
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._user: list[np.ndarray] = []
        self._longest = 0
        self._features = scratch / "user_features.f32"
        self._n_features = 0

    def add(self, table: pa.Table, length: np.ndarray) -> None:
        """Take g whole sessions with `length` [g] slates each; `self.table` must be open."""
        self._check(table, length)
        short = length < self.spec.min_slates
        long = length > (self.spec.max_slates or length.max())
        keep = ~(short | long)
        self._longest = max(self._longest, int(length.max()))
        self.counts["sessions_read"] += len(length)
        self.counts["sessions_too_short"] += int(short.sum())
        self.counts["sessions_too_long"] += int(long.sum())
        if not keep.all():
            table = table.filter(pa.array(np.repeat(keep, length)))
        if keep.any():
            self._keep(table, length[keep])

    def _keep(self, table: pa.Table, length: np.ndarray) -> None:
        item, click = flat(table.column("item"), np.int64), table.column("click")
        time = ragged.place(length)
        if self.spec.has_time:
            raw = table.column("time").to_numpy()
            time = _make_distinct(raw, length)
            self.counts["ties_moved"] += int((time != raw).sum())
        columns = {"time": pa.array(time), "item": table.column("item"), "click": click}
        if "propensity" in table.column_names:
            columns["propensity"] = table.column("propensity")
        self.table.add(pa.table(columns))
        ids = np.unique(item.values)
        self.item_ids = np.union1d(self.item_ids, ids[ids != NO_ITEM])
        self.width = max(self.width, int(item.length.max()))
        self.length.append(length.astype(np.int32))
        first = ragged.offsets(length)[:-1]
        user = "user" if "user" in table.column_names else "session"
        self._user.append(table.column(user).to_numpy()[first])
        self.counts["sessions_kept"] += len(length)
        self.counts["slates_kept"] += len(table)
        self.counts["clicks"] += int(flat(click, np.int64).values.sum())
        if "user_features" in table.column_names:
            features = flat(table.column("user_features").take(pa.array(first)), np.float32)
            self._n_features = int(features.length[0])
            with self._features.open("ab") as file:
                features.values.tofile(file)

    def _check(self, table: pa.Table, length: np.ndarray) -> None:
        """Raise `InputError` for a fault that only a whole session shows."""
        first, owner = ragged.offsets(length)[:-1], ragged.owner(length)
        if self.spec.consecutive:
            gap = np.diff(table.column("number").to_numpy(), prepend=0) != 1
            gap[first] = False
            message = "session {} continues after lines of another session; move its lines together"
            self._reject(gap, table, message)
        if "user" in table.column_names:
            user = table.column("user").to_numpy()
            message = "session {} has two users; give each its own session"
            self._reject(user != user[first][owner], table, message)
        if self.spec.unique:
            value = table.column("tie_breaker").to_numpy()
            order = np.lexsort((value, owner))
            repeated = np.zeros(len(table), bool)
            same = (np.diff(value[order]) == 0) & (np.diff(owner[order]) == 0)
            repeated[order[1:][same]] = True
            message = f"session {{}} has this {self.spec.unique} twice; remove one of the rows"
            self._reject(repeated, table, message)

    def _reject(self, bad: np.ndarray, table: pa.Table, message: str) -> None:
        if bad.any():
            row = table.slice(int(np.argmax(bad)), 1).select(["session", "file", "line"])
            session, file, line = row.to_pylist()[0].values()
            path, unit = self._files[file]
            raise InputError(f"{path}, {unit} {line}: {message.format(session)}")

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
        """Return the users, and for each of the E kept sessions its user's row: [E] int32."""
        session_user = np.concatenate(self._user)
        ids, row = np.unique(session_user, return_inverse=True)
        if self.spec.make_users is not None:
            return self.spec.make_users(ids), row.astype(np.int32)
        if not self._n_features:
            return Users(ids), row.astype(np.int32)
        shape = (len(session_user), self._n_features)
        features = np.memmap(self._features, np.float32, "r", shape=shape)
        return Users(session_user, features), np.arange(len(session_user), dtype=np.int32)


def _make_distinct(time: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Delay the sorted times [n] of each session just enough that no two are equal.

    The new time of step k is max over j <= k of (time[j] - j) + k. Each session is first
    lifted above the one before it, so that one running maximum serves all sessions.
    """
    step = ragged.place(length)
    base = time - step
    lift = ragged.owner(length) * (int(np.ptp(base)) + 1)
    result: np.ndarray = np.maximum.accumulate(base + lift) - lift + step
    return result
