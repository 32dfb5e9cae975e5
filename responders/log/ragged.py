"""Index arithmetic for lists of different lengths that are stored end to end."""

from __future__ import annotations

import numpy as np


def offsets(length: np.ndarray) -> np.ndarray:
    """Return the start of each of n lists and the end of the last: [n + 1] int64 of [n]."""
    return np.concatenate([[0], np.cumsum(length)]).astype(np.int64)


def owner(length: np.ndarray) -> np.ndarray:
    """Return the index of the list of each value, [m] int64 of lengths [n] with sum m."""
    return np.repeat(np.arange(len(length)), length)


def place(length: np.ndarray) -> np.ndarray:
    """Return the index of each value within its list: [m] int64 of lengths [n]."""
    return np.arange(length.sum()) - np.repeat(offsets(length)[:-1], length)
