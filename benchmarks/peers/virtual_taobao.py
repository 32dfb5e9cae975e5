"""Virtual Taobao (https://github.com/eyounx/VirtualTaobao)."""

# The simulator is installed in its own virtual environment.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import virtualTB.envs


def virtual_taobao(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """One user; an action is a vector of weights that selects a page of items."""
    env = virtualTB.envs.VirtualTB()
    actions = np.random.default_rng(0).uniform(-1, 1, (64, env.n_item_feature))
    env.reset()

    def step(i: int) -> int:
        if env.step(actions[i % len(actions)])[2]:
            env.reset()
        return 1

    return step
