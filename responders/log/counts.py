"""What counting says of a log: clicks by item and by position, as rates and log-odds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from responders.log.catalogue import EMPTY
from responders.log.session_log import SessionLog


def count(log: SessionLog, sessions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each item was shown and clicked at each position: two arrays [N, S]."""
    n, s = len(log.catalogue), log.n_positions
    seen, clicked = np.zeros((2, n * s), np.int64)
    for rows in log.blocks(sessions):
        slate = log.slate[rows]
        cell = slate.astype(np.int64) * s + np.arange(s)
        shown = slate != EMPTY
        seen += np.bincount(cell[shown], minlength=n * s)
        clicked += np.bincount(cell[shown & (log.response[rows] > 0)], minlength=n * s)
    return seen.reshape(n, s), clicked.reshape(n, s)


def logit(p: float | np.ndarray | Tensor) -> Tensor:
    """Return the log-odds of probabilities, kept off 0 and 1, float32."""
    return torch.logit(torch.as_tensor(p, dtype=torch.float32), eps=1e-6)


def position_log_odds(log: SessionLog, sessions: np.ndarray) -> Tensor:
    """Return the log-odds [S] of a click at each position, shrunk a little to the overall rate."""
    seen, clicked = (table.sum(0) for table in count(log, sessions))
    overall = clicked.sum() / seen.sum()
    return logit((clicked + overall) / (seen + 1))
