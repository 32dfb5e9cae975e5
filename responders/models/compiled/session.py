"""What a session adds to the log-odds of a slate, and what it remembers of it, in compiled loops.

They compute what `SessionContext` computes. All numbers are float32, indices int64; S, d, G, D and
W are as there. What a responder does not have (match, exposure) comes with size 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from responders.compiling import compiled
from responders.models.parts.exposure import CURVATURE

_ZERO, _ONE, _CURVATURE = np.float32(0), np.float32(1), np.float32(CURVATURE)


class Memory(NamedTuple):
    """The state of B users."""

    hidden: np.ndarray  # [B, H]
    above: np.ndarray  # [B] int64 table row of the last item if it was clicked
    counts: np.ndarray  # [B, 4] of `SessionCounts`
    features: np.ndarray  # [B, d] of `ClickedItems`, as are the next two
    clicked: np.ndarray  # [B, d]
    clicks: np.ndarray  # [B, 1]
    groups: np.ndarray  # [B, D, G] of `Exposure`
    slates: np.ndarray  # [B, W, S] int64


class Items(NamedTuple):
    """What is looked up of every item."""

    row_of_item: np.ndarray  # [N + 1] int64; the first is the row of the empty position
    shown: np.ndarray  # [rows, 3H] of `Tables`, as are the next three
    clicked: np.ndarray  # [rows, 3H]
    readout: np.ndarray  # [rows, H]
    bias: np.ndarray  # [rows]
    vector: np.ndarray  # [rows, d] of `SessionTables`
    group: np.ndarray  # [rows, G]


class Session(NamedTuple):
    """The weights of a `SessionContext`."""

    counts: np.ndarray  # [5]
    match: np.ndarray  # [d, d], or [0, 0]
    decay: np.ndarray  # [D], or [0]
    recency: np.ndarray  # [W, D]
    linear: np.ndarray  # [2D + 2] ≥ 0
    logarithmic: np.ndarray  # [2D + 2] ≥ 0, the root of the curvature divided out


@compiled
def look_up(slate: np.ndarray, most: int, items: Items, rows: np.ndarray) -> None:
    """Write the table rows of a slate [S] of at most `most` positions into `rows` [S].

    Raises:
        IndexError: the slate is too wide or has an item outside the catalogue.
    """
    if slate.shape[0] > most:
        raise IndexError("the slate has more positions than the responder")
    for s in range(slate.shape[0]):
        if not -1 <= slate[s] < items.row_of_item.shape[0] - 1:
            raise IndexError("the slate has an item outside the catalogue")
        rows[s] = items.row_of_item[slate[s] + 1]


@compiled
def add_session(
    user: int,
    slate: np.ndarray,
    rows: np.ndarray,
    memory: Memory,
    items: Items,
    session: Session,
    log_odds: np.ndarray,
) -> None:
    """Write what the session adds to the log-odds of a slate [S] into `log_odds` [S]."""
    slates, streak, n_clicks, with_click = memory.counts[user]
    weight = session.counts
    common = weight[1] * math.log1p(streak) + weight[2] * math.log1p(slates)
    common += weight[3] * math.log1p(n_clicks) + weight[4] * with_click / max(slates, _ONE)
    if slates > 0:
        common += weight[0]
    for s in range(rows.shape[0]):
        log_odds[s] = common
    if session.match.shape[0]:
        add_match(user, rows, memory, items, session, log_odds)
    if session.decay.shape[0]:
        subtract_exposure(user, slate, rows, memory, items, session, log_odds)


@compiled
def add_match(
    user: int,
    rows: np.ndarray,
    memory: Memory,
    items: Items,
    session: Session,
    log_odds: np.ndarray,
) -> None:
    """Add the match of a user and the items of a slate, `UserMatch`."""
    size = session.match.shape[0]
    vector = np.empty(size, np.float32)
    clicks = max(memory.clicks[user, 0], _ONE)
    for i in range(size):
        vector[i] = memory.features[user, i] + memory.clicked[user, i] / clicks
    liked = np.empty(size, np.float32)
    for i in range(size):
        liked[i] = dot(session.match[i], vector)
    for s in range(rows.shape[0]):
        log_odds[s] += dot(items.vector[rows[s]], liked)


@compiled
def subtract_exposure(
    user: int,
    slate: np.ndarray,
    rows: np.ndarray,
    memory: Memory,
    items: Items,
    session: Session,
    log_odds: np.ndarray,
) -> None:
    """Subtract what earlier showings take from the items of a slate, `Exposure`."""
    n_decays, n_groups = session.decay.shape[0], items.group.shape[1]
    n_slates, n_positions = memory.slates.shape[1:]
    above, n_above = np.zeros(n_groups, np.float32), _ZERO
    exposure = np.empty(2 * n_decays + 2, np.float32)
    for s in range(rows.shape[0]):
        if slate[s] < 0:
            continue
        group = items.group[rows[s]]
        for d in range(n_decays):
            exposure[d] = dot(group, memory.groups[user, d])
            exposure[n_decays + d] = _ZERO
        for w in range(n_slates):
            same = False
            for position in range(n_positions):
                same |= memory.slates[user, w, position] == slate[s]
            if same:
                for d in range(n_decays):
                    exposure[n_decays + d] += session.recency[w, d]
        alike = dot(group, above)
        exposure[2 * n_decays] = alike / np.float32(n_positions)
        exposure[2 * n_decays + 1] = alike / max(n_above, _ONE)
        for i in range(exposure.shape[0]):
            x = exposure[i]
            log_odds[s] -= session.linear[i] * x
            log_odds[s] -= session.logarithmic[i] * math.log1p(_CURVATURE * x)
        for g in range(n_groups):
            above[g] += group[g]
        n_above += _ONE


@compiled
def observe(
    user: int,
    slate: np.ndarray,
    rows: np.ndarray,
    click: np.ndarray,
    memory: Memory,
    items: Items,
    session: Session,
) -> None:
    """Update what the session remembers, as `SessionContext.observe` does."""
    n_shown, new = 0, _ZERO
    for s in range(rows.shape[0]):
        n_shown += slate[s] >= 0
        new += np.float32(click[s])
    if not n_shown:
        return
    counts = memory.counts[user]
    counts[0] += _ONE
    counts[1] = counts[1] + _ONE if new == 0 else _ZERO
    counts[2] += new
    counts[3] += np.float32(new > 0)
    if session.match.shape[0]:
        memory.clicks[user, 0] += new
        for s in range(rows.shape[0]):
            if click[s]:
                for i in range(session.match.shape[0]):
                    memory.clicked[user, i] += items.vector[rows[s], i]
    if session.decay.shape[0]:
        observe_exposure(user, slate, rows, memory, items, session)


@compiled
def observe_exposure(
    user: int,
    slate: np.ndarray,
    rows: np.ndarray,
    memory: Memory,
    items: Items,
    session: Session,
) -> None:
    """Update the exposure of a user who was shown a slate with items."""
    n_groups = items.group.shape[1]
    n_slates, n_positions = memory.slates.shape[1:]
    shown = np.zeros(n_groups, np.float32)
    for s in range(rows.shape[0]):
        for g in range(n_groups):
            shown[g] += items.group[rows[s], g]  # zeros for the empty position
    for d in range(session.decay.shape[0]):
        for g in range(n_groups):
            memory.groups[user, d, g] = session.decay[d] * memory.groups[user, d, g] + shown[
                g
            ] / np.float32(n_positions)
    for w in range(n_slates - 1):
        for s in range(n_positions):
            memory.slates[user, w, s] = memory.slates[user, w + 1, s]
    for s in range(n_positions):
        memory.slates[user, n_slates - 1, s] = -1
    for s in range(rows.shape[0]):
        memory.slates[user, n_slates - 1, s] = slate[s]


@compiled
def dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Return the product of two vectors."""
    total = _ZERO
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total
