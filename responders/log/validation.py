"""The invariants of the slates of a `SessionLog`, checked a block of slates at a time."""

from __future__ import annotations

import numpy as np

from responders.errors import InputError
from responders.log.catalogue import EMPTY


def check_rows(
    rows: slice,
    n_items: int,
    session_start: np.ndarray,
    slate: np.ndarray,
    response: np.ndarray,
    time: np.ndarray,
    propensity: np.ndarray | None,
) -> None:
    """Raise `InputError` for a bad item, click, time or propensity in the slates `rows`.

    `n_items` is the size of the catalogue; the arrays are those of the whole log.
    """
    slate, response, time = slate[rows], response[rows], time[rows]

    def fail(bad: np.ndarray, values: np.ndarray, what: str) -> None:
        if bad.any():
            index = np.argwhere(bad)[0]
            row = rows.start + int(index[0])
            at = f"slate {row} of session {_session_of(session_start, row)}"
            at += f", position {int(index[1])}" if len(index) > 1 else ""
            raise InputError(f"{at}: {what.format(values[tuple(index)])}")

    outside = (slate < EMPTY) | (slate >= n_items)
    fail(outside, slate, f"item {{}} is not in the catalogue of {n_items} items (-1 = empty)")
    fail(response > 1, response, "response {} is neither 0 nor 1")
    fail((response > 0) & (slate == EMPTY), response, "a click on an empty position")
    fail((slate == EMPTY).all(1), time, "every position is empty; leave such slates out")
    fail(time < 0, time, "time {} is negative; give seconds since an origin")
    if propensity is not None:
        p = propensity[rows]
        fail(~((p > 0) & (p <= 1)) & (slate != EMPTY), p, "propensity {} is not in (0, 1]")


def check_times(rows: slice, session_start: np.ndarray, time: np.ndarray) -> None:
    """Raise `InputError` unless each slate of `rows`, and the next, is later than the one before.

    The arrays are those of the whole log; sessions need not follow each other in time.
    """
    first, last = rows.start, min(rows.stop, len(time) - 1)
    not_later = np.diff(time[first : last + 1]) <= 0
    begins = slice(*np.searchsorted(session_start, [first + 1, last + 1]))
    not_later[session_start[begins] - 1 - first] = False  # another session may be earlier
    if not_later.any():
        row = first + int(np.argmax(not_later))
        raise InputError(
            f"time does not increase in session {_session_of(session_start, row)}: slate {row} is "
            f"at {time[row]} s and slate {row + 1} at {time[row + 1]} s (duplicate or "
            "out of order); sort each session by time and give every slate its own second"
        )


def _session_of(session_start: np.ndarray, row: int) -> int:
    """Return the session of slate `row`."""
    return int(np.searchsorted(session_start, row, side="right")) - 1
