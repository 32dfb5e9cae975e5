"""RecLab (https://github.com/berkeley-reclab/RecLab)."""

# The simulator is installed in its own virtual environment.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import reclab.environments


def beta_rank(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """Users rate one item of the slate, never the same twice; their tastes do not change.

    The environment is reset after 100 steps. RecLab's Topics and LatentFactorBehavior only read
    the first item of a slate.
    """
    env = reclab.environments.BetaRank(
        dimension=20, num_users=users, num_items=items, rating_frequency=1.0
    )
    env.seed(0)
    env.reset()
    slates = np.random.default_rng(0).integers(0, items, (64, users, slate_size), dtype=np.int32)

    def step(i: int) -> int:
        env.step(slates[i % len(slates)])
        if i % 100 == 99:
            env.reset()
        return users

    return step
