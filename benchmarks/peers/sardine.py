"""sardine (https://github.com/naver/sardine)."""

# The simulator is installed in its own virtual environment.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import numpy as np
import sardine  # noqa: F401 (registers its environments)


def slate_top_k(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """One user; the sizes of the catalogue and of a slate are the environment's own."""
    env = gymnasium.make("sardine/SlateTopK-BoredInf-v0", disable_env_checker=True)
    slates = np.random.default_rng(0).integers(0, items, (64, slate_size), dtype=np.int32)
    env.reset(seed=0)

    def step(i: int) -> int:
        _, _, terminated, truncated, _ = env.step(slates[i % len(slates)])
        if terminated or truncated:
            env.reset()
        return 1

    return step
