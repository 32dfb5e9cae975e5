"""From a log to a trained responder on disk: split, build, train, evaluate, save."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from responders.log.counts import count
from responders.log.session_log import SessionLog

_CONTEXT_USERS, _CONTEXT_SLATES = 1000, 3


def pick_contexts(log: SessionLog, users: np.ndarray) -> SessionLog:
    """Return the first slates of up to 1,000 of the sessions `users` [K], spread evenly."""
    step = max(len(users) // _CONTEXT_USERS, 1)
    chosen = log.select(users[::step][:_CONTEXT_USERS], first_slates=_CONTEXT_SLATES)
    return replace(chosen, propensity=None)


def make_contexts(
    log: SessionLog, users: np.ndarray, counted: tuple[SessionLog, np.ndarray] | None = None
) -> SessionLog:
    """Return the users with whom a simulation starts: `pick_contexts`, and what was counted.

    Args:
        log: the log.
        users: [K] sessions to take.
        counted: a log and its sessions whose impressions and clicks the catalogue's attributes
            `shown` and `clicked` count; by default `log` and `users`.
    """
    shown, clicked = (c.sum(1) for c in count(*(counted or (log, users))))
    attributes = log.catalogue.attributes | {"shown": shown, "clicked": clicked}
    catalogue = replace(log.catalogue, attributes=attributes)
    return replace(pick_contexts(log, users), catalogue=catalogue)
