"""Google RecSim (https://github.com/google-research/recsim)."""

# The simulator is installed in its own virtual environment.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import recsim.choice_model
import recsim.environments.interest_evolution
import recsim.environments.interest_exploration
import recsim.simulator.environment
import recsim.simulator.recsim_gym


def interest_evolution(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """One user, the same candidates at every step."""
    return _one_user(recsim.environments.interest_evolution, items, slate_size)


def interest_evolution_resampled(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """One user, new candidates at every step."""
    return _one_user(recsim.environments.interest_evolution, items, slate_size, resample=True)


def interest_exploration(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """One user, the same candidates at every step."""
    return _one_user(recsim.environments.interest_exploration, items, slate_size)


def _one_user(
    environment: Any, items: int, slate_size: int, resample: bool = False
) -> Callable[[int], int]:
    env = environment.create_environment(
        {
            "slate_size": slate_size,
            "num_candidates": items,
            "resample_documents": resample,
            "seed": 0,
        }
    )
    slates = np.random.default_rng(0).integers(0, items, (64, slate_size), dtype=np.int32)
    env.reset()

    def step(i: int) -> int:
        if env.step(slates[i % len(slates)])[2]:
            env.reset()
        return 1

    return step


def interest_evolution_users(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """Many users in a MultiUserEnvironment.

    Each user is reset as soon as its episode ends. More than 64 users were not faster: the
    environment loops over them in Python.
    """
    module: Any = recsim.environments.interest_evolution
    models = [
        module.IEvUserModel(
            slate_size,
            choice_model_ctor=recsim.choice_model.MultinomialProportionalChoiceModel,
            response_model_ctor=module.IEvResponse,
            user_state_ctor=module.IEvUserState,
            seed=seed,
        )
        for seed in range(users)
    ]
    documents = module.UtilityModelVideoSampler(doc_ctor=module.IEvVideo, seed=0)
    world = recsim.simulator.environment.MultiUserEnvironment(
        models, documents, items, slate_size, resample_documents=False
    )
    env = recsim.simulator.recsim_gym.RecSimGymEnv(
        world, lambda all_responses: [module.clicked_watchtime_reward(r) for r in all_responses]
    )
    slates = np.random.default_rng(0).integers(0, items, (64, users, slate_size), dtype=np.int32)
    env.reset()

    def step(i: int) -> int:
        env.step(slates[i % len(slates)])
        for model in models:
            if model.is_terminal():
                model.reset()
        return users

    return step
