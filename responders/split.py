"""Which sessions train, validate and test a responder."""

import numpy as np
import pandas as pd

from responders.errors import InputError
from responders.log import SessionLog

PARTS = ("train", "validation", "test")


def split_users(
    log: SessionLog, seed: int = 0, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> dict[str, np.ndarray]:
    """Split the sessions by user into train, validation and test (arXiv 2409.20055, 80/10/10).

    Users are ranked by a hash of raw id and seed, so that the split does not depend on the order
    of the log, and no user is in two parts.

    Returns:
        {"train": [.] int64 session indices in log order, "validation": …, "test": …}

    Raises:
        InputError: a part would be empty.
    """
    key = f"{seed:016d}"[:16]
    salted = pd.util.hash_array(log.users.ids.astype(str).astype(object), hash_key=key)
    rank = np.empty(len(log.users), dtype=np.int64)
    rank[np.argsort(salted, kind="stable")] = np.arange(len(log.users))
    bounds = np.round(np.cumsum(fractions)[:-1] * len(log.users))
    part = np.searchsorted(bounds, rank, side="right")[log.user]
    split = {name: np.flatnonzero(part == i) for i, name in enumerate(PARTS)}
    for name, sessions in split.items():
        if not len(sessions):
            raise InputError(
                f"the log has {len(log.users)} users, too few to hold out 10 % of them: its "
                f"{name} part is empty; convert a longer log"
            )
    return split
