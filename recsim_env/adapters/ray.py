"""The users of one environment on the machines of a Ray cluster, as one vector environment."""

from __future__ import annotations

import secrets
import signal
import socket
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from ray.exceptions import RayActorError, RayTaskError

from recsim_env.actions import ActionCheck
from recsim_env.vector import StepReturn, WorldVectorEnv, with_masks
from responders import InputError
from responders.errors import check_seed, check_whole


def connect(address: str) -> None:
    """Connect to a Ray cluster and keep our handling of SIGTERM, which Ray replaces.

    Args:
        address: HOST:PORT, `auto` for the cluster that this machine belongs to, or `local` to
            start one on this machine alone.

    Raises:
        InputError: there is no cluster.
    """
    handler = signal.getsignal(signal.SIGTERM)
    host, colon, port = address.partition(":")
    try:
        if colon and port.isdigit():  # Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"no Ray cluster at {address!r} ({error}): start one with `ray start --head`, give "
            "local in place of the address, or set RAY_AUTH_MODE=token if it asks for a token"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


class RayVectorEnv(VectorEnv):
    """B simulated users, an equal share of them in each of several Ray actors.

    Spaces, rewards, ends of episodes, autoreset and infos are those of
    `gymnasium.make_vec(id, num_envs=B, …)`. The same seed gives the same episodes for any number of
    actors, as every user has a random stream of its own. Arrays come through Ray's object store.

    Args:
        id: of the environment.
        num_envs: B.
        num_actors: actors, each a process on any machine of the cluster.
        address: HOST:PORT, auto or local; see `connect`. Ignored if Ray is connected already.
        num_cpus: of each actor, which PyTorch uses as threads.
        num_gpus: of each actor.
        kwargs: as of `gymnasium.make_vec`; files that they name must be on all machines.

    Raises:
        InputError: no cluster at `address`, or one with too few CPUs or GPUs, or a wrong argument.
    """

    def __init__(
        self,
        id: str,
        num_envs: int,
        num_actors: int,
        *,
        address: str = "auto",
        num_cpus: int = 1,
        num_gpus: float = 0,
        **kwargs: Any,
    ) -> None:
        if check_whole("num_actors", num_actors, 1) > check_whole("num_envs", num_envs, 1):
            raise InputError(f"{num_actors} actors are too many for {num_envs} users")
        self._owner = not ray.is_initialized()
        if self._owner:
            connect(address)
        for name, n in (("CPU", num_cpus), ("GPU", num_gpus)):
            if ray.cluster_resources().get(name, 0) < n * num_actors:
                self.close()
                raise InputError(f"the Ray cluster has fewer than {n * num_actors:g} {name}s")
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "scheduling_strategy": "SPREAD"}
        self._make, self._given = ray.remote(**options)(_Share), (id, kwargs)
        self._bounds = np.linspace(0, num_envs, num_actors + 1).astype(int)
        self.num_envs, self._fresh = num_envs, True
        self._ended = np.zeros(num_envs, dtype=bool)
        self._actors = [self._start(i) for i in range(num_actors)]
        try:
            spaces = self._call("spaces", [()] * num_actors)[0]
        except InputError:
            self.close()
            raise
        self.single_action_space, self.single_observation_space, rewards, mode = spaces
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        if rewards is not None:
            self.reward_space = rewards
        self.autoreset_mode, self.metadata = mode, {"autoreset_mode": mode}
        self._check = ActionCheck(self.single_action_space, num_envs)

    def _start(self, actor: int) -> Any:
        first, end = self._bounds[actor : actor + 2].tolist()
        return self._make.remote(*self._given, end - first, first)

    def _shares(self, value: Any, dtype: type | None = None) -> list[Any]:
        """Return the rows of each actor's users; a single value is the same for all."""
        rows = np.asarray(value, dtype)
        if rows.ndim == 0:
            return [value] * len(self._actors)
        if len(rows) != self.num_envs:
            raise InputError(f"{len(rows)} values were given for {self.num_envs} users")
        return np.split(rows, self._bounds[1:-1])

    def _call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return what a method of each actor returns.

        Raises:
            RuntimeError: an actor died. A new one has been started, whose users begin at `reset`.
        """
        calls = zip(self._actors, arguments, strict=True)
        tasks = [getattr(actor, method).remote(*given) for actor, given in calls]
        found: list[Any] = []
        dead: dict[int, RayActorError] = {}
        for i, task in enumerate(tasks):
            try:
                found.append(ray.get(task))
            except RayActorError as error:
                dead[i] = error
            except RayTaskError as error:
                raise error.cause from None
        for i in dead:
            self._actors[i], self._fresh = self._start(i), True
        for i, death in dead.items():
            raise RuntimeError(
                f"Ray actor {i} of {len(tasks)}, with the users {self._bounds[i]} to "
                f"{self._bounds[i + 1] - 1}, has died: call reset to begin new episodes"
            ) from death
        return found

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes; see `WorldVectorEnv.reset`.

        Raises:
            InputError: an unknown option, or the seed or an option has a wrong type or value.
            RuntimeError: an actor died.
        """
        options = options or {}
        mask = options.get("reset_mask")
        if self._fresh and mask is not None:
            raise InputError("the first reset must be of all users: leave out reset_mask")
        if isinstance(seed, (list, tuple, np.ndarray)):
            seeds: list[Any] = [share.tolist() for share in self._shares(list(seed), object)]
        else:
            if seed is None and self._fresh:
                seed = secrets.randbits(48)
            seed = None if seed is None else check_seed(seed)
            seeds = [seed] * len(self._actors)
            super().reset(seed=seed)
        shares = {name: self._shares(value) for name, value in options.items()}
        given = [
            {name: share[i] for name, share in shares.items()} for i in range(len(self._actors))
        ]
        parts = self._call("reset", list(zip(seeds, given, strict=True)))
        self._fresh = False
        self._ended = self._ended & ~np.asarray(True if mask is None else mask)
        return self._joined([p[0] for p in parts]), self._joined([p[1] for p in parts])

    def step(self, actions: Any) -> StepReturn:
        """Step all users; see `WorldVectorEnv.step`.

        Raises:
            InputError: the actions have a wrong shape, dtype or range, or the episode of a user has
                ended and autoreset is disabled. The state does not change.
            RuntimeError: an actor died.
        """
        array = self._check(actions)
        if self._fresh:
            raise InputError("step before reset: call reset first")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            user = int(np.argmax(self._ended))
            raise InputError(f"user {user} has ended its episode: call reset before step")
        parts = self._call("step", [(share,) for share in self._shares(array)])
        observation, reward, terminated, truncated, info = (
            self._joined([part[k] for part in parts]) for k in range(5)
        )
        self._ended = terminated | truncated
        return observation, reward, terminated, truncated, info

    def _joined(self, parts: list[Any]) -> Any:
        """Return the arrays of all actors end to end, and dictionaries entry by entry.

        An entry that some actors lack, as nothing happened to their users, is zero or None there.
        """
        some = next(part for part in parts if part is not None)
        if isinstance(some, dict):
            names = dict.fromkeys(name for part in parts if part for name in part)
            return {
                name: self._joined([part.get(name) if part else None for part in parts])
                for name in names
            }
        empty = None if some.dtype == object else 0
        sizes = np.diff(self._bounds)
        return np.concatenate(
            [
                np.full((n, *some.shape[1:]), empty, some.dtype) if part is None else part
                for n, part in zip(sizes, parts, strict=True)
            ]
        )

    def close_extras(self, **kwargs: Any) -> None:
        """End the actors, and leave the cluster if this environment connected to it."""
        for actor in getattr(self, "_actors", ()):
            ray.kill(actor)
        if self._owner and ray.is_initialized():
            ray.shutdown()


class _Share:
    """The users of one actor, `first_user` and those that follow."""

    def __init__(self, id: str, kwargs: dict[str, Any], num_envs: int, first_user: int) -> None:
        self.id, self.kwargs, self.num_envs, self.first_user = id, kwargs, num_envs, first_user

    @cached_property
    def envs(self) -> WorldVectorEnv:
        """Made at the first call, as Ray takes an error of `__init__` for the actor's death."""
        envs = gym.make_vec(self.id, num_envs=self.num_envs, **self.kwargs).unwrapped
        assert isinstance(envs, WorldVectorEnv)
        envs.world.first_user = self.first_user
        return envs

    def spaces(self) -> tuple[Any, ...]:
        """Return the spaces of one user, that of rewards if there are several, and autoreset."""
        envs = self.envs
        rewards = getattr(envs, "reward_space", None)
        return envs.single_action_space, envs.single_observation_space, rewards, envs.autoreset_mode

    def reset(self, seed: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Reset the users; none, if `reset_mask` names none of them."""
        mask = options.get("reset_mask")
        if mask is not None and not np.any(mask):
            return self.envs.observe(), with_masks(self.envs.state_info())
        return self.envs.reset(seed=seed, options=options)

    def step(self, actions: np.ndarray) -> StepReturn:
        """Step the users."""
        return self.envs.step(actions)
