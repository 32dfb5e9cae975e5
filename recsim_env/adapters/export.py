"""Export of episodes for offline reinforcement learning: d3rlpy arrays and Minari datasets.

`recsim_env.adapters.logged` makes the same episodes of a logged `SessionLog`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from recsim_env.vector import WorldVectorEnv
from responders import InputError
from responders.progress import progress_bar


@dataclass(frozen=True)
class Episode:
    """One episode of T steps.

    Args:
        observation: [T + 1, …], or a dict of such arrays.
        action: [T, …].
        reward: [T] or [T, M] float64.
        terminated: whether the user left at the end; if not, the episode was cut there.
        info: arrays [T + 1, …] by name; entry t + 1 belongs to action t, as in Minari.
    """

    observation: Any
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    info: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.action)


def collect(
    envs: WorldVectorEnv,
    act: Callable[[Any], np.ndarray] | None = None,
    *,
    episodes: int,
    seed: int = 0,
    progress: bool = True,
) -> list[Episode]:
    """Run a policy for `episodes` episodes.

    A new episode starts only when those of all B users have ended, so that short episodes are not
    overrepresented.

    Args:
        envs: with autoreset DISABLED; it is reset.
        act: from observations [B, …] to actions [B, …]; None = random actions.
        episodes: number of episodes.
        seed: of the users and of random actions.
        progress: show a progress bar.

    Raises:
        InputError: another autoreset mode.
    """
    if envs.unwrapped.autoreset_mode != AutoresetMode.DISABLED:
        raise InputError('collect takes an environment with autoreset_mode="Disabled"')
    if act is None:
        envs.action_space.seed(seed)
        act = lambda observation: envs.action_space.sample()  # noqa: E731
    collected: list[Episode] = []
    observation, _ = envs.reset(seed=seed)
    with progress_bar(total=episodes, desc="episodes", disable=not progress) as bar:
        while len(collected) < episodes:
            new = _round(envs, act, observation)[: episodes - len(collected)]
            collected += new
            bar.update(len(new))
            observation, _ = envs.reset()
    return collected


def _round(
    envs: WorldVectorEnv, act: Callable[[Any], np.ndarray], observation: Any
) -> list[Episode]:
    """Return one episode of each user."""
    observations, actions, rewards = [observation], [], []
    length = np.zeros(envs.num_envs, dtype=int)
    active, user_left = np.ones(envs.num_envs, dtype=bool), np.zeros(envs.num_envs, dtype=bool)
    while active.any():
        action = act(observation)
        observation, reward, terminated, truncated, _ = envs.step(action)
        observations.append(observation)
        actions.append(np.asarray(action))
        rewards.append(reward)
        length += active
        user_left |= active & terminated
        ended = terminated | truncated
        active &= ~ended
        if ended.any():  # users who ended keep being stepped, unrecorded, until all have ended
            envs.reset(options={"reset_mask": ended})
    action, reward = np.stack(actions, 1), np.stack(rewards, 1)
    return [
        Episode(_of_user(observations, i, t), action[i, :t], reward[i, :t], bool(user_left[i]))
        for i, t in enumerate(length.tolist())
    ]


def _of_user(batches: list[Any], user: int, steps: int) -> Any:
    """Return the observations [T + 1, …] of one user."""
    if isinstance(batches[0], dict):
        return {
            name: np.stack([step[name][user] for step in batches[: steps + 1]])
            for name in batches[0]
        }
    return np.stack([step[user] for step in batches[: steps + 1]])


def d3rlpy_arrays(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Return the arguments of `d3rlpy.dataset.MDPDataset`.

    Returns:
        observations [n, d] float32, actions [n, …], rewards [n, 1] float32, terminals [n] float32
        (the user left) and timeouts [n] float32 (the episode was cut), of all steps in order.

    Raises:
        InputError: observations are dicts (use observe="flat"), actions are slates of indices,
            which no algorithm of d3rlpy learns, rewards are vectors, or there is no episode.
    """
    if not episodes:
        raise InputError("there is no episode to export")
    if isinstance(episodes[0].observation, dict):
        raise InputError('d3rlpy needs flat observations: use observe="flat"')
    if episodes[0].reward.ndim > 1:
        raise InputError("d3rlpy supports one reward: give weights, such as reward={'clicks': 1.0}")
    if episodes[0].action.dtype.kind in "iu" and episodes[0].action.ndim > 1:
        raise InputError(
            "d3rlpy learns one index or a continuous vector per step, not slates of indices: make "
            'the environment with action="arm", "scores" or "proto", or export a log whose slates '
            "have one item"
        )
    last = np.concatenate([np.arange(len(e)) == len(e) - 1 for e in episodes])
    left = np.concatenate([np.full(len(e), e.terminated) for e in episodes])
    action = np.concatenate([e.action for e in episodes])
    return {
        "observations": np.concatenate([e.observation[:-1] for e in episodes]).astype(np.float32),
        "actions": action.reshape(len(action), -1),
        "rewards": np.concatenate([e.reward for e in episodes]).astype(np.float32)[:, None],
        "terminals": (last & left).astype(np.float32),
        "timeouts": (last & ~left).astype(np.float32),
    }


def to_minari(
    episodes: Sequence[Episode], envs: WorldVectorEnv, dataset_id: str, **options: Any
) -> Any:
    """Write a Minari dataset (to the folder `MINARI_DATASETS_PATH`) and return it.

    Its `env_spec` is that of one user, so that `dataset.recover_environment()` works; it is left
    out if `envs` was not made by `gym.make_vec`, or with arguments that are not text or numbers.

    Args:
        episodes: from `collect`.
        envs: the environment that they were collected in.
        dataset_id: such as "recsim/contentwise/random-v0".
        options: of `minari.create_dataset_from_buffers`: description, algorithm_name, author, …

    Raises:
        InputError: Minari is not installed, rewards are vectors, or there is no episode.
    """
    spaces = envs.single_observation_space, envs.single_action_space
    return write_minari(episodes, dataset_id, *spaces, env=single_spec(envs), **options)


def write_minari(
    episodes: Sequence[Episode],
    dataset_id: str,
    observation_space: Space,
    action_space: Space,
    **options: Any,
) -> Any:
    """Write episodes of the given spaces as a Minari dataset; see `to_minari`."""
    try:
        from minari import create_dataset_from_buffers
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise InputError("Minari is not installed: pip install 'recsim-env[offline]'") from error
    if not episodes:
        raise InputError("there is no episode to export")
    if episodes[0].reward.ndim > 1:
        raise InputError("Minari supports one reward: give weights, such as reward={'clicks': 1.0}")
    buffers = []
    for number, episode in enumerate(episodes):
        end = np.arange(len(episode)) == len(episode) - 1
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=episode.observation,
                actions=episode.action,
                rewards=list(episode.reward),
                terminations=list(end & episode.terminated),
                truncations=list(end & (not episode.terminated)),
                infos=episode.info or None,
            )
        )
    return create_dataset_from_buffers(
        dataset_id,
        buffers,
        action_space=action_space,
        observation_space=observation_space,
        **options,
    )


def single_spec(envs: WorldVectorEnv) -> EnvSpec | None:
    """Return the specification with which `gym.make` makes the environment of one user."""
    spec = envs.unwrapped.spec
    if spec is None:
        return None
    for_vectors = ("num_envs", "vectorization_mode", "autoreset_mode")
    kwargs = {name: value for name, value in spec.kwargs.items() if name not in for_vectors}
    single = replace(copy.deepcopy(spec), kwargs=kwargs)
    try:
        single.to_json()
    except (ValueError, TypeError):
        return None
    return single
