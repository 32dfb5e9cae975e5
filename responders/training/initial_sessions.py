"""The logged users and slates with which a simulation starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from responders.log.batch import Part
from responders.log.counts import count
from responders.log.session_log import SessionLog

HELD_OUT = "users held out of training"
REFITTED = "users of the log, all of them trained on"
"""Who the users are with whom a simulation starts (`initial_users` of the card)."""

_SESSIONS = 1000
SLATES = 4
"""Slates that are kept of each: a warm start of up to 3, and whether the user was then there."""


def select_initial(log: SessionLog, sessions: np.ndarray) -> SessionLog:
    """Return the first 4 slates of up to 1,000 of `sessions` [K], evenly spaced."""
    step = max(len(sessions) // _SESSIONS, 1)
    chosen = log.select(sessions[::step][:_SESSIONS], first_slates=SLATES)
    return replace(chosen, propensity=None)


def unseen_sessions(log: SessionLog, parts: dict[str, Part]) -> tuple[np.ndarray, str]:
    """Return the sessions with whose users a simulation starts, and who they are, in words.

    They are the sessions of users of whom nothing was trained on. A split by time may leave none;
    then they are the sessions of which nothing was trained on, or else all that are evaluated.
    """
    trained = parts["train"].sessions
    evaluated = np.union1d(parts["validation"].sessions, parts["test"].sessions)
    new_users = evaluated[~np.isin(log.user[evaluated], log.user[trained])]
    if len(new_users):
        return new_users, HELD_OUT
    new_sessions = np.setdiff1d(evaluated, trained)
    if len(new_sessions):
        return new_sessions, "users of training sessions, in later sessions"
    return evaluated, "users of training sessions"


def make_initial_sessions(
    log: SessionLog, sessions: np.ndarray, counted: tuple[SessionLog, np.ndarray] | None = None
) -> SessionLog:
    """Return `select_initial` with impressions and clicks as attributes of the catalogue.

    Args:
        log: the log.
        sessions: [K] sessions to select from.
        counted: the log and its sessions whose impressions and clicks become the attributes
            `shown` and `clicked`; by default `log` and `sessions`.
    """
    shown, clicked = (c.sum(1) for c in count(*(counted or (log, sessions))))
    attributes = log.catalogue.attributes | {"shown": shown, "clicked": clicked}
    catalogue = replace(log.catalogue, attributes=attributes)
    return replace(select_initial(log, sessions), catalogue=catalogue)
