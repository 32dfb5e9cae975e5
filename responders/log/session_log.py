"""SessionLog: slates shown to users in sessions and what they clicked.

Readers of raw logs return it, responders are trained on it, and running a policy in a simulated
world returns it as well. Arrays are immutable; a large log loaded from disk is memory-mapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from responders.errors import InputError
from responders.log import ragged
from responders.log.catalogue import EMPTY, Catalogue, Users, frozen
from responders.log.frame import Names, fields_of
from responders.log.storage import LogWriter, read_columns
from responders.log.validation import check_rows, check_times

_CHUNK, _SESSIONS = 1 << 17, 1 << 12  # slates, sessions processed at a time, to bound memory


@dataclass(frozen=True)
class SessionLog:
    """T slates of S positions in E sessions.

    Args:
        slate: [T, S] int32, catalogue indices, -1 = empty position.
        response: [T, S] uint8, 1 where the item was clicked.
        session_start: [E + 1] int64; session e is slates session_start[e]:session_start[e + 1],
            in time order.
        user: [E] int32, index of the session's user in `users`.
        time: [T] int64, seconds; not negative, strictly increasing within a session.
        catalogue: the items.
        users: the users.
        propensity: [T, S] float32, the logging policy's probability of the shown item, or None.
        card: name, source, licence, synthetic (bool), and how the log was made.
    """

    slate: np.ndarray
    response: np.ndarray
    session_start: np.ndarray
    user: np.ndarray
    time: np.ndarray
    catalogue: Catalogue
    users: Users
    propensity: np.ndarray | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"slate": np.int32, "response": np.uint8, "session_start": np.int64}
        kinds |= {"user": np.int32, "time": np.int64, "propensity": np.float32}
        for name, dtype in kinds.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, frozen(value, dtype, name))

    @property
    def n_slates(self) -> int:
        """T, the number of slates."""
        return len(self.slate)

    @property
    def n_positions(self) -> int:
        """S, the number of positions of a slate."""
        return int(self.slate.shape[1])

    @property
    def n_sessions(self) -> int:
        """E, the number of sessions."""
        return len(self.user)

    @property
    def session_length(self) -> np.ndarray:
        """[E] int64, slates in each session."""
        return np.diff(self.session_start)

    @property
    def synthetic(self) -> bool:
        """Whether the users of this log were simulated."""
        return bool(self.card.get("synthetic", False))

    def fingerprint(self) -> str:
        """Return a hash of everything that training reads: slates, clicks, sessions, ids."""
        digest = hashlib.sha256(self.catalogue.fingerprint().encode())
        for array in (self.session_start, self.user, self.users.features):
            digest.update(np.ascontiguousarray(array).data)
        for first in range(0, self.n_slates, _CHUNK):
            rows = slice(first, first + _CHUNK)
            digest.update(np.ascontiguousarray(self.slate[rows]).data)
            digest.update(np.ascontiguousarray(self.response[rows]).data)
        return digest.hexdigest()[:16]

    def validate(self) -> SessionLog:
        """Check every invariant of the log and return it.

        Raises:
            InputError: an invariant is violated; the message describes the first violation.
        """
        self._validate_shape()
        self.catalogue.validate()
        self.users.validate()
        for first in range(0, self.n_slates, _CHUNK):
            rows = slice(first, min(first + _CHUNK, self.n_slates))
            check_rows(
                rows, len(self.catalogue), self.session_start, self.slate, self.response, self.time,
                self.propensity,
            )  # fmt: skip
            check_times(rows, self.session_start, self.time)
        return self

    def _validate_shape(self) -> None:
        if self.slate.ndim != 2:
            raise InputError(f"slate has shape {self.slate.shape}, not [slates, positions]")
        if not self.n_slates or not self.n_sessions:
            raise InputError("the log is empty: it has no slate in any session")
        for name in ("response", "propensity"):
            array = getattr(self, name)
            if array is not None and array.shape != self.slate.shape:
                raise InputError(f"{name} has shape {array.shape}, slate has {self.slate.shape}")
        if self.time.shape != (self.n_slates,):
            raise InputError(f"time has shape {self.time.shape} for {self.n_slates} slates")
        start = self.session_start
        if self.user.ndim != 1:
            raise InputError(f"user has shape {self.user.shape}, not [sessions]")
        if start.shape != (self.n_sessions + 1,) or start[0] != 0 or start[-1] != self.n_slates:
            raise InputError(
                f"session_start must run from 0 to {self.n_slates} in {self.n_sessions + 1} "
                f"values; it has {len(start)} from {start[0]} to {start[-1]}"
            )
        if (self.session_length < 1).any():
            raise InputError(f"session {int(np.argmin(self.session_length))} has no slate")
        if self.user.min() < 0 or self.user.max() >= len(self.users):
            raise InputError(f"a session's user is outside the {len(self.users)} users of the log")

    def rows(self, sessions: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the indices of all slates of `sessions`, session by session, int64."""
        sessions = np.asarray(sessions, dtype=np.int64)
        start = self.session_start[sessions]
        length = self.session_start[sessions + 1] - start
        return np.repeat(start, length) + ragged.place(length)

    def blocks(self, sessions: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        """Yield `rows(sessions)` in blocks, so that reading them takes bounded memory."""
        for i in range(0, len(sessions), _SESSIONS):
            rows = self.rows(sessions[i : i + _SESSIONS])
            for first in range(0, len(rows), _CHUNK):
                yield rows[first : first + _CHUNK]

    def select(
        self, sessions: Sequence[int] | np.ndarray, first_slates: int | np.ndarray | None = None
    ) -> SessionLog:
        """Return a log of only `sessions`, in that order, with the same catalogue.

        Args:
            sessions: [K] session indices, or an [E] boolean mask.
            first_slates: keep at most this many slates at the start of each session; a number, or
                one for each of the K sessions.
        """
        sessions = np.asarray(sessions)
        if sessions.dtype == bool:
            sessions = np.flatnonzero(sessions)
        length = self.session_length[sessions]
        rows = self.rows(sessions)
        if first_slates is not None:
            kept = np.minimum(length, first_slates)
            rows, length = rows[ragged.place(length) < np.repeat(kept, length)], kept
        user_index, user = np.unique(self.user[sessions], return_inverse=True)
        return SessionLog(
            slate=self.slate[rows],
            response=self.response[rows],
            session_start=ragged.offsets(length),
            user=user,
            time=self.time[rows],
            propensity=None if self.propensity is None else self.propensity[rows],
            catalogue=self.catalogue,
            users=self.users.select(user_index),
            card=self.card,
        )

    @staticmethod
    def concat(logs: Sequence[SessionLog]) -> SessionLog:
        """Return one log of all sessions of `logs`, which must share one catalogue.

        Users are identified by their raw ids: the same id in two logs is the same user. Shorter
        slates are padded with empty positions; propensities are kept if every log has them.
        """
        if not logs:
            raise InputError("concat needs at least one log")
        first = logs[0]
        for i, log in enumerate(logs):
            if log.catalogue.fingerprint() != first.catalogue.fingerprint():
                raise InputError(f"log {i} has another catalogue than log 0: convert both with one")
            if log.users.feature_names != first.users.feature_names:
                raise InputError(f"log {i} has other user features than log 0")
        width = max(log.n_positions for log in logs)

        def padded(arrays: list[np.ndarray], fill: float) -> np.ndarray:
            pads = [((0, 0), (0, width - a.shape[1])) for a in arrays]
            return np.concatenate(
                [np.pad(a, p, constant_values=fill) for a, p in zip(arrays, pads, strict=True)]
            )

        ids = np.concatenate([log.users.ids for log in logs])
        _, keep, renumber = np.unique(ids, return_index=True, return_inverse=True)
        first_user = np.cumsum([0] + [len(log.users) for log in logs])
        first_slate = np.cumsum([0] + [log.n_slates for log in logs])
        propensity = [log.propensity for log in logs if log.propensity is not None]
        return SessionLog(
            slate=padded([log.slate for log in logs], EMPTY),
            response=padded([log.response for log in logs], 0),
            session_start=np.concatenate(
                [log.session_start[:-1] + r for log, r in zip(logs, first_slate, strict=False)]
                + [first_slate[-1:]]
            ),
            user=np.concatenate(
                [renumber[log.user + o] for log, o in zip(logs, first_user, strict=False)]
            ),
            time=np.concatenate([log.time for log in logs]),
            propensity=padded(propensity, 0) if len(propensity) == len(logs) else None,
            catalogue=first.catalogue,
            users=Users(
                ids[keep],
                np.concatenate([log.users.features for log in logs])[keep],
                first.users.feature_names,
            ),
            card=first.card | {"name": " + ".join(str(log.card.get("name")) for log in logs)},
        )

    def summary(self) -> dict[str, Any]:
        """Return counts, click rates (overall, by position and by step) and the time span."""
        length = self.session_length
        n_steps = 10  # the last one includes all later slates
        shown_by_position, clicks_by_position = np.zeros((2, self.n_positions), np.int64)
        shown_by_step, clicks_by_step = np.zeros((2, n_steps), np.int64)
        items = np.zeros(len(self.catalogue), bool)
        without_click = 0
        for block in self.blocks(np.arange(self.n_sessions)):
            slate, click = self.slate[block], self.response[block].astype(bool)
            shown = slate != EMPTY
            first = self.session_start[np.searchsorted(self.session_start, block, "right") - 1]
            step = np.minimum(block - first, n_steps - 1)
            shown_by_position += shown.sum(0)
            clicks_by_position += click.sum(0)
            shown_by_step += np.bincount(step, shown.sum(1), n_steps).astype(np.int64)
            clicks_by_step += np.bincount(step, click.sum(1), n_steps).astype(np.int64)
            items[slate[shown]] = True
            without_click += int((~click.any(1)).sum())

        def rate(clicked: np.ndarray, seen: np.ndarray) -> list[float]:
            return (clicked / np.maximum(seen, 1)).round(5).tolist()

        return {
            "sessions": self.n_sessions,
            "slates": self.n_slates,
            "impressions": int(shown_by_position.sum()),
            "clicks": int(clicks_by_position.sum()),
            "click_rate": float(clicks_by_position.sum() / shown_by_position.sum()),
            "slates_without_click": without_click / self.n_slates,
            "users": len(self.users),
            "items": len(self.catalogue),
            "items_shown": int(items.sum()),
            "item_features": self.catalogue.features.shape[1],
            "user_features": self.users.features.shape[1],
            "slates_per_session": {
                "min": int(length.min()),
                "median": float(np.median(length)),
                "mean": float(length.mean()),
                "max": int(length.max()),
            },
            "first_time": int(self.time.min()),
            "last_time": int(self.time.max()),
            "click_rate_by_position": rate(clicks_by_position, shown_by_position),
            "click_rate_by_step": rate(clicks_by_step, shown_by_step)[: int(length.max())],
        }

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Validate the log and write it to the folder `path`, which appears once it is complete.

        Raises:
            InputError: the log is not valid, or `path` exists and `overwrite` is False.
        """
        self.validate()
        with LogWriter(Path(path), overwrite) as writer:
            for first in range(0, self.n_slates, _CHUNK):
                rows = slice(first, first + _CHUNK)
                propensity = None if self.propensity is None else self.propensity[rows]
                writer.append(self.slate[rows], self.response[rows], self.time[rows], propensity)
            writer.finish(self.session_length, self.user, self.catalogue, self.users, self.card)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> SessionLog:
        """Load the log in folder `path`; the slates of a large log are memory-mapped.

        Raises:
            InputError: the folder is missing, is not a log, or a file of it is damaged or has
                values that break an invariant of the log.
        """
        columns, checked = read_columns(Path(path))
        log = cls(**columns)
        if checked is None or not checked.exists():  # a large log is checked once
            log.validate()
            if checked is not None:
                with suppress(OSError):  # the cache may be read-only
                    checked.touch()
        return log

    def to_frame(self) -> pd.DataFrame:
        """Return the log as a frame with a row for each shown item, in the order of the log.

        Columns are session, step, position, item, click, time, user and, where the log has it,
        propensity. `item` and `user` are raw ids; `position` and `step` count from 0; empty
        positions have no row.
        """
        row, position = np.nonzero(self.slate != EMPTY)
        session = ragged.owner(self.session_length)
        columns: dict[str, Any] = {
            "session": session[row],
            "step": ragged.place(self.session_length)[row],
            "position": position,
            "item": self.catalogue.ids[self.slate[row, position]],
            "click": self.response[row, position],
            "time": self.time[row],
            "user": self.users.ids[self.user[session[row]]],
        }
        if self.propensity is not None:
            columns["propensity"] = self.propensity[row, position]
        return pd.DataFrame(columns)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame | Mapping[str, Any],
        catalogue: Catalogue | None = None,
        *,
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
        items: pd.DataFrame | None = None,
        users: pd.DataFrame | None = None,
    ) -> SessionLog:
        """Make a log from a frame with a row per shown item; rows may come in any order.

        The columns step, position, time, user and propensity are taken if the frame has them.
        Without step, rows of one time are a slate; without position, the order of rows
        counts; without time, it is the number of the slate in its session; without user, every
        session has its own. Positions that start at 1 are moved to 0, with a warning.

        Args:
            frame: a frame or a dict of columns.
            catalogue: the items; by default the items of the frame in sorted order.
            session: the column of session ids, or several columns that identify a session together.
            item: the column of item ids: integers or text.
            click: 0 or 1.
            step: orders the slates of a session.
            position: the position in the slate, from 0.
            time: seconds, dates (UTC unless they have a zone), durations, or text of these.
            user: the column of user ids.
            propensity: the logging policy's probability of the item, in (0, 1].
            price: the column of the items' prices, of `items` if that is given.
            item_features: columns that describe the item; equal in all rows of an item.
            user_features: columns that describe the user; equal in all rows of a user.
            items: a row per item, with its id as a column (named like `item`, or id) or as the
                index; all other columns are features, or `price`.
            users: a row per user, in the same form.

        Raises:
            InputError: a column or a value is missing or of a wrong kind; a click is not 0 or 1; a
                position is filled twice; an item is not in `catalogue`; the rows of a slate differ
                in time; time is negative or does not increase with step; a session has two users;
                a feature differs between rows of one item or user.
        """
        names = Names(
            session, item, click, step, position, time, user, propensity, price, item_features,
            user_features,
        )  # fmt: skip
        return cls(**fields_of(frame, catalogue, names, items, users)).validate()
