"""T-RECS (https://github.com/elucherini/t-recs)."""

# The simulator is installed in its own virtual environment.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import trecs.models


def random_recommender(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """Users whose tastes do not change (the default) choose the item they like best.

    Slates are drawn by T-RECS itself, in its `startup` mode, the faster of two.
    """
    rng = np.random.default_rng(0)
    world = trecs.models.RandomRecommender(
        actual_user_representation=rng.normal(size=(users, 8)),
        actual_item_representation=rng.normal(size=(8, items)),
        num_items_per_iter=slate_size,
        seed=0,
    )
    warnings.simplefilter("ignore")  # each run warns that nothing is measured

    def step(_: int) -> int:
        world.run(1, startup=True, train_between_steps=False, disable_tqdm=True)
        return users

    return step
