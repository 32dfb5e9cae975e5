"""What was shown and clicked before a slate of a log."""

from __future__ import annotations

import numpy as np

from responders.log.catalogue import EMPTY
from responders.log.session_log import SessionLog


def history(
    log: SessionLog, session: np.ndarray, step: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the last W slates of sessions after some of their slates, and the clicks on them.

    Args:
        log: the log.
        session: [n] session indices.
        step: [n], slates of each session that have been shown.
        window: W.

    Returns:
        slates [n, W, S], oldest first, -1 = nothing, and clicks [n, W, S] bool.
    """
    seen = step[:, None] + np.arange(-window, 0)  # [n, W] slates of the session
    row, exists = log.session_start[session][:, None] + np.maximum(seen, 0), seen >= 0
    exists = exists[..., None]
    return np.where(exists, log.slate[row], EMPTY), exists & (log.response[row] > 0)
