"""RecoGym (https://github.com/criteo-research/reco-gym)."""

# The simulator is installed in its own virtual environment.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import recogym
import recogym.envs


def reco_gym(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """One user, recommendations of single items.

    A step is one recommendation and whether it is clicked. Its time includes the user's browsing
    until the next recommendation, which RecoGym simulates in the same call.
    """
    env = recogym.envs.RecoEnv1()  # gym.make of gym 0.26 adds checks that it fails
    env.init_gym({**recogym.env_1_args, "num_products": items, "random_seed": 0})
    actions = np.random.default_rng(0).integers(0, items, 64, dtype=np.int32).tolist()
    user = 0

    def start() -> None:
        """Reset to the next user who stays until the first recommendation."""
        nonlocal user
        done = True
        while done:
            env.reset(user)
            user += 1
            done = env.step(None)[2]

    def step(i: int) -> int:
        if env.step(actions[i % len(actions)])[2]:
            start()
        return 1

    start()
    return step
