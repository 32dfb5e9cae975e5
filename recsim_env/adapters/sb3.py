"""A vector environment as a Stable-Baselines3 `VecEnv`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from recsim_env.vector import WorldVectorEnv
from responders import InputError


class SB3VecEnv(VecEnv):
    """A `WorldVectorEnv` as a Stable-Baselines3 `VecEnv`, stepped in one batch.

    Args:
        vector: with autoreset SAME_STEP, the mode that Stable-Baselines3 expects.
    """

    def __init__(self, vector: WorldVectorEnv) -> None:
        if vector.metadata["autoreset_mode"] != AutoresetMode.SAME_STEP:
            raise InputError('SB3VecEnv takes a vector environment with autoreset_mode="SameStep"')
        if vector.world.n_objectives is not None:
            raise InputError(
                "Stable-Baselines3 learns from one reward: give weights, such as "
                'reward={"clicks": 1.0, "diversity": 0.1}'
            )
        self.vector = vector
        self._actions: np.ndarray | None = None
        self._began = time.perf_counter()
        self._clear(np.ones(vector.num_envs, dtype=bool))
        self.render_mode = vector.render_mode
        super().__init__(
            vector.num_envs, vector.single_observation_space, vector.single_action_space
        )

    def _clear(self, ended: np.ndarray) -> None:
        """Begin the sums of the episodes of the users `ended` [B] bool."""
        if ended.all():
            self._reward, self._length = np.zeros(len(ended)), np.zeros(len(ended), np.int64)
        else:
            self._reward[ended], self._length[ended] = 0.0, 0

    def reset(self) -> Any:
        observation, _ = self.vector.reset(seed=self._seeds[0], options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self._clear(np.ones(self.num_envs, dtype=bool))
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step; only users whose episode ended have infos.

        They have those of the vector environment (for `Monitor(info_keywords=…)`),
        `terminal_observation`, `TimeLimit.truncated` and, as `VecMonitor` gives it, `episode` with
        the reward, length and seconds that Stable-Baselines3 logs. Dictionaries for all users at
        every step would take longer than the step.
        """
        observation, reward, terminated, truncated, infos = self.vector.step(self._actions)
        done = terminated | truncated
        out: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        final = infos.get("final_info", {})
        self._reward += reward
        self._length += 1
        seconds = round(time.perf_counter() - self._began, 6)
        for i in np.flatnonzero(done):
            out[i] |= {name: value[i] for name, value in final.items() if name[0] != "_"}
            out[i]["terminal_observation"] = infos["final_obs"][i]
            out[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            sums = {"r": float(self._reward[i]), "l": int(self._length[i]), "t": seconds}
            out[i]["episode"] = sums
        self._clear(done)
        return observation, reward.astype(np.float32), done, out

    def close(self) -> None:
        self.vector.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the vector environment, which all users share, for each index."""
        value = getattr(self.vector, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the vector environment, which all users share."""
        setattr(self.vector, attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment once; return its rows for each index."""
        result = getattr(self.vector, method_name)(*args, **kwargs)
        return [result[i] for i in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        return hasattr(self.vector, attr_name)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for each index: there are no sub-environment objects."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the frame of each user."""
        return list(self.vector.render() or [None])
