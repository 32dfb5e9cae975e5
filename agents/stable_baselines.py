"""The base classes of policies that Stable-Baselines3 or sb3-contrib trains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from agents.candidate_items import CandidateItems
from agents.policy import Policy
from agents.quiet_import import quiet_import
from agents.site import Site
from recsim_env.actions import Actions, SlateActions
from recsim_env.candidates import Candidates, popular_table
from recsim_env.observations import FlatObservation
from recsim_env.vector import RecSimVectorEnv
from recsim_env.world import World
from responders import InputError
from responders.config import Config, setting
from responders.device import seeded


@dataclass(frozen=True)
class SB3Config(Config):
    """Settings that policies of Stable-Baselines3 have in common."""

    hidden_size: int = setting(64, "Units of both layers.", ge=1, le=8192)
    learning_rate: float = setting(0.001, "Of Adam.", gt=0)
    gamma: float = setting(0.9, "Discount.", ge=0, le=1)


class SB3Policy(Policy):
    """Learns in a world with an algorithm of Stable-Baselines3, on the flat observation.

    A subclass names the algorithm and implements `actions`, `settings` and `act` or `score`. Only
    the network's weights are saved, not the algorithm's zip file, which holds pickles.

    Args:
        world: see `Policy`.
        config: the settings; others have the algorithm's defaults.
        seed: of weights and exploration.

    Attributes:
        network: the policy of Stable-Baselines3, on the CPU.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    algorithm: ClassVar[str] = ""
    """Package and class of the algorithm, "package:Class"."""
    network_kind: ClassVar[str] = "MlpPolicy"
    config_class: ClassVar[type[Config]] = SB3Config
    config: SB3Config

    def __init__(self, world: World | Site, config: SB3Config | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        self._algorithm = self._imported()
        place = cast(World, self.site)  # a site has all that an encoder and actions read
        self.encoder, self._actions = FlatObservation(place), self.actions(place)
        with seeded(seed):
            self.network = self._algorithm.policy_aliases[self.network_kind](
                self.encoder.space,
                self._actions.space,
                lambda _: self.config.learning_rate,
                **self.network_settings(),
            )

    def _imported(self) -> Any:
        package, name = self.algorithm.split(":")
        try:
            return getattr(quiet_import(package), name)
        except ImportError as error:
            raise InputError(
                f"{name} needs Stable-Baselines3 and sb3-contrib: pip install 'recsim-env[rl]'"
            ) from error

    def actions(self, world: World) -> Actions:
        """Return how the actions of the network become slates."""
        raise NotImplementedError

    def settings(self, users: int) -> dict[str, Any]:
        """Return arguments of the algorithm, for learning from `users` at a time."""
        raise NotImplementedError

    def network_settings(self) -> dict[str, Any]:
        """Return arguments of the network."""
        return {"net_arch": [self.config.hidden_size] * 2}

    def train(self, world: World, steps: int, seed: int) -> int:
        from stable_baselines3.common.logger import Logger

        from recsim_env.adapters.sb3 import SB3VecEnv

        env = SB3VecEnv(
            RecSimVectorEnv(world, self.actions(world), self.encoder, autoreset_mode="SameStep")
        )
        with _global_generators():  # the algorithm seeds them
            model = self._algorithm(
                type(self.network),
                env,
                seed=self.seed,
                device="cpu",
                learning_rate=self.config.learning_rate,
                gamma=self.config.gamma,
                policy_kwargs=self.network_settings(),
                **self.settings(world.num_users),
            )
            env.seed(seed)  # after the algorithm has seeded the users with its own seed
            model.set_logger(Logger(None, []))  # the default logger creates a temporary folder
            model.policy.load_state_dict(self.network.state_dict())
            model.learn(steps)
        self.network.load_state_dict(model.policy.state_dict())
        self.network.set_training_mode(False)
        self.count_steps(model.num_timesteps)
        return model.num_timesteps

    def flat(self, observation: dict[str, Tensor]) -> Tensor:
        """Return the flat observation [B, D] on the CPU, where the network is."""
        return self.encoder.encode(observation).cpu()


@contextmanager
def _global_generators() -> Iterator[None]:
    """Restore the states of the global random number generators at the end."""
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002


@dataclass(frozen=True)
class PositionConfig(SB3Config):
    """Settings of policies that choose an item for each position."""

    candidates: int = setting(50, "Most clicked items to choose from at each position.", ge=1)
    n_steps: int = setting(16, "Steps of a user between updates.", ge=1)
    gae_lambda: float = setting(0.9, "Of the advantage estimate.", ge=0, le=1)
    entropy: float = setting(0.001, "Weight of the entropy bonus.", ge=0)


class PositionPolicy(SB3Policy):
    """An actor and a critic, with a categorical choice among candidates for each position.

    In training, positions choose independently, and repeated items are left empty. Otherwise, each
    position shows the likeliest candidate that is not above it and that the rules allow.
    """

    config_class: ClassVar[type[Config]] = PositionConfig
    config: PositionConfig

    def __init__(
        self, world: World | Site, config: PositionConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        table = self._actions.candidates.table
        assert table is not None
        items, self._column = table.unique(return_inverse=True)
        self._candidates = CandidateItems(self.site, items)

    def actions(self, world: World) -> Actions:
        table = popular_table(world, min(self.config.candidates, self.n_items))
        return SlateActions(world, Candidates(world, table))

    def settings(self, users: int) -> dict[str, Any]:
        config = self.config
        names = {"n_steps": config.n_steps, "gae_lambda": config.gae_lambda}
        return names | {"ent_coef": config.entropy}

    def choices(self, observation: dict[str, Tensor]) -> list[Any]:
        """Return the categorical distribution of each position."""
        return self.network.get_distribution(self.flat(observation)).distribution

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        choices = self.choices(observation)
        shape = (len(observation["item"]), len(self._candidates))
        slate = torch.full((shape[0], self.n_positions), -1, device=self.device)
        for position, choice in enumerate(choices):
            logits = choice.logits.to(self.device)
            column = self._column[position].expand(shape[0], -1)
            score = logits.new_full(shape, -torch.inf).scatter_reduce(1, column, logits, "amax")
            slate[:, position] = self._candidates.rules.best(score, slate, position)
        return self._candidates.items(slate)


@dataclass(frozen=True)
class ReplayConfig(SB3Config):
    """Settings of policies that learn from a buffer of steps."""

    buffer: int = setting(100, "Steps of each user that are kept to learn from.", ge=1)
    start: int = setting(4, "Random steps of each user before the first update.", ge=0)
    updates: int = setting(16, "Minibatches after each step of all users.", ge=1)
    batch_size: int = setting(256, "Steps in a minibatch.", ge=1)


class ReplayPolicy(SB3Policy):
    """Learns off-policy, from a buffer of steps."""

    config_class: ClassVar[type[Config]] = ReplayConfig
    config: ReplayConfig

    def settings(self, users: int) -> dict[str, Any]:
        config = self.config
        return {
            "buffer_size": config.buffer * users,
            "learning_starts": config.start * users,
            "batch_size": config.batch_size,
            "train_freq": 1,
            "gradient_steps": config.updates,
        }


class EntropyPolicy(ReplayPolicy):
    """Learns a continuous action with SAC (Haarnoja et al., ICML 2018)."""

    algorithm: ClassVar[str] = "stable_baselines3:SAC"

    def settings(self, users: int) -> dict[str, Any]:
        # The usual weight of the entropy, 1 at first, would drown the clicks for long.
        return super().settings(users) | {"ent_coef": "auto_0.1"}
