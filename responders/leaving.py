"""When users leave: the hazard of ending the session, learned from a log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from responders.log import SessionLog

_STREAKS = 21
_PRIOR = 20.0


@dataclass(frozen=True)
class Hazard:
    """The chance that a user leaves after a slate.

    Args:
        by_streak: [K] chance by the number of slates in a row without a click, the last value for
            all longer rows.
        min_slates: nobody leaves before so many slates.
    """

    by_streak: tuple[float, ...]
    min_slates: int = 1


def fruitless(log: SessionLog, sessions: np.ndarray) -> np.ndarray:
    """Return the number of slates in a row without a click that end at each slate, int64.

    Slates are those of `sessions`, session by session; a session starts at 0.
    """
    rows = log.rows(sessions)
    length = log.session_length[sessions]
    clicked = np.concatenate([log.response[block].any(1) for block in log.blocks(sessions)])
    index = np.arange(len(rows))
    first = np.repeat(np.cumsum(length) - length, length)
    last_reset = np.maximum.accumulate(np.where(clicked, index, -1))
    return index - np.maximum(last_reset, first - 1)


def fit_hazard(log: SessionLog, sessions: np.ndarray) -> Hazard:
    """Estimate the hazard from the lengths of `sessions` by counting (a discrete Kaplan-Meier).

    Sessions shorter than the shortest of the log were filtered out, so nobody leaves before it;
    sessions of the greatest length may have been cut there and are treated as censored when it is
    shared by several. Rare streaks are shrunk towards the overall rate.
    """
    length = log.session_length[sessions]
    shortest, longest = int(length.min()), int(length.max())
    step = 1 + np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    streak = np.minimum(fruitless(log, sessions), _STREAKS - 1)
    left = step == np.repeat(length, length)
    cut = (length == longest).sum() > 1 and longest > shortest
    at_risk = (step >= shortest) & ~((step == longest) & cut)
    seen = np.bincount(streak[at_risk], minlength=_STREAKS)
    ended = np.bincount(streak[at_risk & left], minlength=_STREAKS)
    overall = ended.sum() / max(seen.sum(), 1)
    rate = (ended + _PRIOR * overall) / (seen + _PRIOR)
    return Hazard(tuple(float(r) for r in rate), shortest)
