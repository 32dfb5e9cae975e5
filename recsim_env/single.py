"""The Gymnasium environment of one simulated user."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from recsim_env.vector import WorldVectorEnv
from responders import InputError
from responders.device import in_float32
from responders.errors import check_seed


class RecSimEnv(gymnasium.Env):
    """A vector environment of one user as a `gymnasium.Env`; see its class for spaces and infos.

    Args:
        vector: of one user, with autoreset disabled.
    """

    def __init__(self, vector: WorldVectorEnv) -> None:
        if vector.num_envs != 1 or vector.metadata["autoreset_mode"] != AutoresetMode.DISABLED:
            raise InputError("RecSimEnv takes a vector environment of one user, autoreset DISABLED")
        self.vector = vector
        self.action_space = vector.single_action_space
        self.observation_space = vector.single_observation_space
        if vector.world.n_objectives is not None:
            self.reward_space = vector.reward_space
        self.render_mode = vector.render_mode
        self.metadata = {k: v for k, v in vector.metadata.items() if k != "autoreset_mode"}

    @property
    def has_ensemble(self) -> bool:
        """Whether several responders answer, so that infos carry `disagreement`."""
        return self.vector.has_ensemble

    @property
    def has_support(self) -> bool:
        """Whether infos carry `support`: how common slates are in the log."""
        return self.vector.has_support

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode with a new user.

        Args:
            seed: whole number; the same seed gives the same episodes.
            options: `user`: row of the population (`info["user_index"]`) to start with; by default
                it is drawn.

        Returns:
            the observation and the infos.
        """
        seed = None if seed is None else check_seed(seed)
        super().reset(seed=seed)
        observation, infos = self.vector.reset(seed=seed, options=options)
        return _first(observation), _first_info(infos)

    @in_float32
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action for the user.

        Raises:
            InputError: an invalid action, or the episode has ended.
        """
        reward, terminated, truncated, infos, _ = self.vector.transition([action])
        return (
            _first(self.vector.observe()),
            float(reward[0]) if reward.ndim == 1 else reward[0],
            bool(terminated[0]),
            bool(truncated[0]),
            _first(infos | self.vector.state_info()),
        )

    def render(self) -> Any:
        """Return text for "ansi", an array [height, width, 3] for "rgb_array"."""
        frames = self.vector.render()
        return None if frames is None else frames[0]

    def action_masks(self) -> np.ndarray:
        """Return the mask of valid actions, as for sb3-contrib's MaskablePPO."""
        return self.vector.action_masks()[0]  # type: ignore[attr-defined]


def _first(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {name: value[0] for name, value in observation.items()}
    return observation[0]


def _first_info(infos: dict[str, Any]) -> dict[str, Any]:
    return {name: value[0] for name, value in infos.items() if not name.startswith("_")}
