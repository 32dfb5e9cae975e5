"""Reward wrappers, for single and for vector environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorRewardWrapper, VectorWrapper

from responders import InputError


def _weights(space: spaces.Space | None, weights: Sequence[float]) -> np.ndarray:
    """Return `weights` [M] float64, or raise `InputError` if they do not fit the rewards."""
    if space is None:
        raise InputError('the environment has a single reward: make it with reward=("clicks", …)')
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != space.shape or not np.isfinite(array).all():
        raise InputError(f"{space.shape} finite weights are needed, not {weights!r}")
    return array


class ScalariseReward(gymnasium.RewardWrapper):
    """Turns a vector of rewards into their weighted sum.

    Args:
        env: made with several rewards, such as reward=("clicks", "diversity").
        weights: [M], in the order of the rewards.
    """

    def __init__(self, env: gymnasium.Env, weights: Sequence[float]) -> None:
        super().__init__(env)
        self.weights = _weights(getattr(env.unwrapped, "reward_space", None), weights)

    def reward(self, reward: Any) -> float:
        return float(np.dot(reward, self.weights))


class VectorScalariseReward(VectorRewardWrapper):
    """`ScalariseReward` for a vector environment."""

    def __init__(self, env: VectorEnv, weights: Sequence[float]) -> None:
        super().__init__(env)
        self.weights = _weights(getattr(env.unwrapped, "reward_space", None), weights)

    def rewards(self, reward: Any) -> Any:
        return reward @ self.weights


def _check_ensemble(env: Any, weight: float) -> float:
    if not env.unwrapped.has_ensemble:
        raise InputError("there is no ensemble to disagree: give several responders")
    if not 0 <= weight < np.inf:
        raise InputError(f"weight must be a finite number of at least 0, not {weight!r}")
    return float(weight)


def _check_support(env: Any, weight: float) -> float:
    if not env.unwrapped.has_support:
        raise InputError("the environment does not measure support: make it with support=True")
    if not 0 <= weight <= 1:
        raise InputError(f"weight must be from 0 to 1, not {weight!r}")
    return float(weight)


class PenaliseDisagreement(gymnasium.Wrapper):
    """Subtracts the disagreement of an ensemble, so that policies do not exploit model errors.

    The reward becomes reward − weight · Σ over the slate of the standard deviation of the members'
    click probabilities, as in MOPO (Yu et al., 2020).

    Args:
        env: with an ensemble.
        weight: of a deviation of 1 at one position, in units of the reward.
    """

    def __init__(self, env: gymnasium.Env, weight: float = 1.0) -> None:
        super().__init__(env)
        self.weight = _check_ensemble(env, weight)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        penalty = self.weight * float(np.sum(info.get("disagreement", 0.0)))
        return observation, reward - penalty, terminated, truncated, info  # type: ignore[operator]


class VectorPenaliseDisagreement(VectorWrapper):
    """`PenaliseDisagreement` for a vector environment."""

    def __init__(self, env: VectorEnv, weight: float = 1.0) -> None:
        super().__init__(env)
        self.weight = _check_ensemble(env, weight)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if "disagreement" not in info:  # no page was completed, so no user answered
            return observation, reward, terminated, truncated, info
        penalty = self.weight * info["disagreement"].sum(1)
        return observation, reward - _per_user(penalty, reward), terminated, truncated, info


class PenaliseUnsupported(gymnasium.Wrapper):
    """Scales rewards down where slates repeat more than the log's do, and answers are guesses.

    The reward becomes reward · (1 − weight · (1 − support)): with weight 1, a slate that repeats
    more than any of the log gives nothing. As it is scaled and not lowered, no policy gains by
    making users leave.

    Args:
        env: made with `support=True`.
        weight: from 0 to 1.
    """

    def __init__(self, env: gymnasium.Env, weight: float = 1.0) -> None:
        super().__init__(env)
        self.weight = _check_support(env, weight)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        kept = 1 - self.weight * (1 - float(info.get("support", 1.0)))
        return observation, reward * kept, terminated, truncated, info  # type: ignore[operator]


class VectorPenaliseUnsupported(VectorWrapper):
    """`PenaliseUnsupported` for a vector environment."""

    def __init__(self, env: VectorEnv, weight: float = 1.0) -> None:
        super().__init__(env)
        self.weight = _check_support(env, weight)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if "support" not in info:  # no page was completed, so no user answered
            return observation, reward, terminated, truncated, info
        kept = 1 - self.weight * (1 - info["support"])
        return observation, reward * _per_user(kept, reward), terminated, truncated, info


def _per_user(value: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Return `value` [B] in a shape that broadcasts to rewards [B] or [B, M]."""
    return value if reward.ndim == 1 else value[:, None]
