"""Splits of a log into training, validation and test parts, by user or by time."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import pandas as pd

from responders.errors import InputError, check_finite, check_seed
from responders.log.batch import Part
from responders.log.session_log import SessionLog

PARTS = ("train", "validation", "test")
FRACTIONS = (0.8, 0.1, 0.1)
_HASHED = 1 << 16  # ids at a time: as text they take ten times the memory
CONTEXT = 0.8
"""Share of a test session's slates that only serve as history (arXiv 2409.20055)."""


def split_users(
    log: SessionLog, seed: int = 0, fractions: tuple[float, ...] = FRACTIONS
) -> dict[str, Part]:
    """Split the sessions by user into train, validation and test (arXiv 2409.20055, 80/10/10).

    Users are ranked by a hash of raw id and seed, so that the split does not depend on the order
    of the log, and no user is in two parts. The first 80 % of the slates of a test session are
    history.

    Raises:
        InputError: a part would be empty.
    """
    seed = check_seed(seed)
    # The hash takes 16 characters.
    key = f"{seed:016d}" if seed < 10**16 else sha256(str(seed).encode()).hexdigest()[:16]
    ids = log.users.ids
    salted = np.concatenate(
        [
            pd.util.hash_array(ids[i : i + _HASHED].astype(str).astype(object), hash_key=key)
            for i in range(0, len(ids), _HASHED)
        ]
    )
    rank = np.empty(len(log.users), dtype=np.int64)
    rank[np.argsort(salted, kind="stable")] = np.arange(len(log.users))
    bounds = np.round(np.cumsum(fractions)[:-1] * len(log.users))
    part = np.searchsorted(bounds, rank, side="right").astype(np.int8)[log.user]
    split = {
        name: Part.of(log, np.flatnonzero(part == i), CONTEXT if name == "test" else 0.0)
        for i, name in enumerate(PARTS)
    }
    for name, sessions in split.items():
        if not len(sessions):
            raise InputError(
                f"the log has {len(log.users)} users, too few to hold out 10 % of them: the "
                f"{name} part is empty; convert a longer log"
            )
    return split


def split_time(log: SessionLog, fractions: tuple[float, ...] = FRACTIONS) -> dict[str, Part]:
    """Split the slates at two points in time, so that no part sees later slates.

    The first 80 % of all slates train, the next 10 % validate, the rest test. A session that
    crosses a split point is cut there for the earlier part, and its earlier slates are history for
    the later one.

    Raises:
        InputError: a part would be empty, because too many slates share one time.
    """
    moments = np.quantile(log.time, np.cumsum(fractions)[:-1], method="higher")
    length = log.session_length
    before = [_before(log, moment) for moment in moments]
    bounds = [np.zeros_like(length), *before, length]
    split = {}
    for i, name in enumerate(PARTS):
        sessions = np.flatnonzero(bounds[i + 1] > bounds[i])
        if not len(sessions):
            raise InputError(
                f"the slates cannot be split by time: the {name} part is empty, as too many slates "
                f"share a time (they run from {log.time.min()} to {log.time.max()} s); use a user "
                "split"
            )
        split[name] = Part(sessions, bounds[i][sessions], bounds[i + 1][sessions])
    return split


def _before(log: SessionLog, moment: float) -> np.ndarray:
    """Return the number of slates of each session before `moment`, [E] int64."""
    earlier = np.append(0, np.cumsum(log.time < moment))
    return np.diff(earlier[log.session_start])


SPLITS = ("user", "time")


def make_split(
    log: SessionLog, by: str, seed: int, fractions: Sequence[float] = FRACTIONS
) -> dict[str, Part]:
    """Return the split of `log` by `user` (drawn by `seed`) or by `time`.

    Raises:
        InputError: an unknown name, fractions that are not three positive numbers with sum 1, or a
            part would be empty.
    """
    if by not in SPLITS:
        raise InputError(f"split {by!r} is unknown: user or time")
    shares = tuple(check_finite("a fraction of the split", f) for f in fractions)
    if len(shares) != 3 or not min(shares) > 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(
            f"fractions of a split are three positive numbers that add up to 1, not {fractions!r}"
        )
    return split_users(log, seed, shares) if by == "user" else split_time(log, shares)


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Return the fractions in a text such as "0.8,0.1,0.1", or raise `InputError`."""
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"fractions are three numbers such as 0.8,0.1,0.1, not {text!r}") from None
    return train, validation, test


def sample_users(log: SessionLog, sessions: np.ndarray, most: int) -> np.ndarray:
    """Return `sessions` if there are at most about `most`, or all those of every k-th user."""
    step = -(-len(sessions) // most)
    sample = sessions[log.user[sessions] % step == 0] if step > 1 else sessions
    return sample if len(sample) else sessions[:most]


def visible_log(log: SessionLog, part: Part) -> tuple[SessionLog, np.ndarray]:
    """Return a log of what `part` may see (`log` itself if possible) and its sessions there."""
    if (part.end == log.session_length[part.sessions]).all():
        return log, part.sessions
    return log.select(part.sessions, first_slates=part.end), np.arange(len(part))
