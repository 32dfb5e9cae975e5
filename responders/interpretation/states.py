"""Hidden states of logged users, and what the users had clicked before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from responders.device import in_float32
from responders.log import ragged
from responders.log.batch import Part, make_batch, plan_batches
from responders.log.session_log import SessionLog
from responders.models.base import Responder
from responders.models.state import State, take_rows

FADE = 0.7
"""How much a click counts as recent, of what the click after it counts."""


@dataclass(frozen=True)
class States:
    """Hidden states of logged users, one for each moment.

    Args:
        vector: [n, D] float32.
        clicks: [n, N], recent clicks on each item in the session: the last click counts 1, the one
            before it `FADE`, and so on.
        user: [n] int64, rows of the log's users.
    """

    vector: np.ndarray
    clicks: sparse.csr_matrix
    user: np.ndarray


def clicks_before(log: SessionLog, session: np.ndarray, end: np.ndarray) -> sparse.csr_matrix:
    """Return the recent clicks on each item of a session so far, see `States`: [n, N] float64.

    Args:
        log: the log.
        session: [n] session indices.
        end: [n], how many of the session's clicks count, from its first one.
    """
    slate, position = np.nonzero(log.response)
    first = np.searchsorted(slate, log.session_start[:-1])  # the first click of each session
    place = ragged.place(end)
    at, age = np.repeat(first[session], end) + place, np.repeat(end, end) - 1 - place
    found, shape = log.slate[slate[at], position[at]], (len(session), len(log.catalogue))
    counts = sparse.csr_matrix((FADE**age, found, ragged.offsets(end)), shape)
    counts.sum_duplicates()
    return counts


Moment = tuple[np.ndarray, int, State, Tensor, Tensor]
"""Sessions [B], the number of the slate, the state before it, the slate [B, S], clicks [B, S]."""


def walk(responder: Responder, log: SessionLog, part: Part) -> Iterator[Moment]:
    """Yield users before each counted slate of `part`, in batches."""
    for rows in plan_batches(part, 256):
        group = part.take(rows)
        batch = make_batch(log, group)
        state = responder.start(batch.user)
        for r in range(batch.slate.shape[1]):
            slate, click = batch.slate[:, r], batch.click[:, r]
            counted = np.flatnonzero((r >= group.first) & (r < group.end))
            if len(counted):
                at = torch.from_numpy(counted)
                yield group.sessions[counted], r, take_rows(state, at), slate[at], click[at]
            state = responder.observe(state, slate, click)


@in_float32
@torch.inference_mode()
def hidden_states(responder: Responder, log: SessionLog, part: Part) -> States:
    """Return the hidden states of a responder before each counted slate of `part`.

    Args:
        responder: with hidden states, on the CPU.
        log: the log.
        part: the sessions, and which of their slates count.
    """
    responder.prepare()
    vectors, sessions, rows = [], [], []
    for session, r, state, _, _ in walk(responder, log, part):
        hidden = responder.hidden(state)
        assert hidden is not None
        vectors.append(hidden.numpy())
        sessions.append(session)
        rows.append(log.session_start[session] + r)
    session, row = np.concatenate(sessions), np.concatenate(rows)
    n_clicks = ragged.offsets(np.count_nonzero(log.response, axis=1))
    end = n_clicks[row] - n_clicks[log.session_start[session]]
    return States(np.concatenate(vectors), clicks_before(log, session, end), log.user[session])


@in_float32
@torch.inference_mode()
def losses(
    responder: Responder, log: SessionLog, part: Part, net: nn.Module
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-loss of the clicks of each user, as it is and with reconstructed states.

    Args:
        responder: with hidden states, on the CPU.
        log: the log.
        part: the sessions, and which of their slates count.
        net: from hidden states [B, D] to what replaces them when a slate is scored.

    Returns:
        sums over the positions of each user of the log [U, 2], nats, and their number [U].
    """
    sums, count = np.zeros((len(log.users), 2)), np.zeros(len(log.users))
    for session, _, state, slate, click in walk(responder, log, part):
        hidden, user, shown = responder.hidden(state), log.user[session], slate >= 0
        assert hidden is not None
        for i, each in enumerate((state, responder.with_hidden(state, net(hidden)))):
            loss = F.binary_cross_entropy_with_logits(
                responder.logits(each, slate, click), click, reduction="none"
            )
            np.add.at(sums[:, i], user, (loss * shown).sum(1).numpy())
        np.add.at(count, user, shown.sum(1).numpy())
    return sums, count
