"""Impressions and clicks of a log, counted by item and position, and log-odds of clicks."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from responders.log.catalogue import EMPTY
from responders.log.session_log import SessionLog


def count(log: SessionLog, sessions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each item was shown and clicked at each position: two arrays [N, S]."""
    n, s = len(log.catalogue), log.n_positions
    shown, clicked = np.zeros((2, n * s), np.int64)
    for block in log.blocks(sessions):
        slate = log.slate[block]
        cell = slate.astype(np.int64) * s + np.arange(s)
        filled = slate != EMPTY
        shown += np.bincount(cell[filled], minlength=n * s)
        clicked += np.bincount(cell[filled & (log.response[block] > 0)], minlength=n * s)
    return shown.reshape(n, s), clicked.reshape(n, s)


def click_matrix(log: SessionLog, sessions: np.ndarray) -> csr_matrix:
    """Return how often each user clicked each item, [U, N] float32."""
    pairs = []
    for rows in log.blocks(sessions):
        row, position = np.nonzero(log.response[rows])
        session = np.searchsorted(log.session_start, rows[row], "right") - 1
        pairs.append(np.stack([log.user[session], log.slate[rows[row], position]]))
    user, item = np.concatenate(pairs, 1)
    ones = np.ones(len(user), np.float32)
    return csr_matrix((ones, (user, item)), (len(log.users), len(log.catalogue)))


def logit(p: float | np.ndarray | Tensor) -> Tensor:
    """Return the log-odds of probabilities, clamped away from 0 and 1, float32."""
    return torch.logit(torch.as_tensor(p, dtype=torch.float32), eps=1e-6)


def position_log_odds(log: SessionLog, sessions: np.ndarray) -> Tensor:
    """Return the log-odds [S] of a click by position, shrunk slightly towards the overall rate."""
    shown, clicked = (table.sum(0) for table in count(log, sessions))
    overall = clicked.sum() / shown.sum()
    return logit((clicked + overall) / (shown + 1))
