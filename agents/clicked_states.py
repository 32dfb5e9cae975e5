"""The states of sequential policies after the clicks of logged users."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from agents.sequences import trimmed
from agents.sequential import SequentialPolicy
from responders import EMPTY, InputError, SessionLog
from responders.interpretation.states import States, clicks_before
from responders.log import ragged

_ROWS = 512  # histories at a time


@torch.inference_mode()
def states_after_clicks(
    policy: SequentialPolicy, log: SessionLog, sessions: np.ndarray
) -> tuple[States, np.ndarray]:
    """Return the states of a policy after each click of some sessions, and the next click.

    Args:
        policy: of the log's catalogue.
        log: the log.
        sessions: session indices.

    Returns:
        the states of n moments, and the items [n] int64 clicked next in the session, -1 = none.

    Raises:
        InputError: the sessions have no click.
    """
    slate, position = np.nonzero(log.response)
    session = ragged.owner(log.session_length)[slate]
    kept = np.isin(session, sessions)
    if not kept.any():
        raise InputError("the sessions have no click, after which a policy has a state")
    session, item = session[kept], log.slate[slate, position][kept].astype(np.int64)
    count = np.bincount(session, minlength=log.n_sessions)
    place, column = ragged.place(count), np.arange(policy.config.length)
    length = np.minimum(place + 1, policy.config.length)[:, None]
    at = np.arange(len(item))[:, None] - length + 1 + column
    history = np.where(column < length, item[np.minimum(at, len(item) - 1)], EMPTY)
    vectors = [
        policy.net.last_state(trimmed(torch.from_numpy(rows).to(policy.device))).cpu().numpy()
        for rows in np.array_split(history, -(-len(history) // _ROWS))
    ]
    target = np.where(place + 1 < count[session], np.append(item[1:], EMPTY), EMPTY)
    clicks = clicks_before(log, session, place + 1)
    return States(np.concatenate(vectors), clicks, log.user[session]), target


@torch.inference_mode()
def next_click_losses(
    policy: SequentialPolicy, states: States, target: np.ndarray, net: nn.Module, n_users: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-loss of each user's next clicks, as it is and with reconstructed states.

    Args:
        policy: whose states they are.
        states: of n moments.
        target: [n] items, -1 = none.
        net: from states [B, D] to what replaces them.
        n_users: U, of the log.

    Returns:
        sums over the next clicks of each user [U, 2], nats, and their number [U].
    """
    sums, count = np.zeros((n_users, 2)), np.zeros(n_users)
    items = policy.net.items.weight.cpu()
    rows = np.flatnonzero(target >= 0)
    for part in np.array_split(rows, -(-len(rows) // _ROWS) or 1):
        vector, user = torch.from_numpy(states.vector[part]), states.user[part]
        wanted = torch.from_numpy(target[part])
        for i, state in enumerate((vector, net(vector))):
            loss = F.cross_entropy(state @ items.t(), wanted, reduction="none")
            np.add.at(sums[:, i], user, loss.numpy())
        np.add.at(count, user, 1)
    return sums, count
