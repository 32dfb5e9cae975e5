"""The base class of policies."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsim_env.world import World
from responders.config import Config


class Policy:
    """Chooses slates for B users at a time.

    Args:
        world: provides the catalogue, its rules, the number of positions and the device; the hidden
            state of its users is not used.
        config: an instance of `config_class`.
        seed: of everything random in the policy.
    """

    config_class: ClassVar[type[Config]] = Config
    """The frozen dataclass of the policy's settings."""

    def __init__(self, world: World, config: Config | None = None, seed: int = 0) -> None:
        self.config, self.seed = config or self.config_class(), seed
        self.catalogue, self.rules, self.device = world.catalogue, world.rules, world.device
        self.n_items, self.n_positions = world.n_items, world.n_positions

    def train(self, world: World, steps: int, seed: int) -> int:
        """Learn by acting in `world`.

        Args:
            world: reset with `seed`.
            steps: user-slate steps to train for, rounded up to whole rollouts.
            seed: of the users.

        Returns:
            The user-slate steps used; 0 for a policy that does not learn.
        """
        return 0

    def reset(self) -> None:
        """Forget the users, who all start new episodes."""

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        """Return slates [B, S] int64 of catalogue indices for a batched `HistoryObservation`."""
        raise NotImplementedError

    def learn(self, slate: Tensor, click: Tensor) -> None:
        """Learn from slates [n, S] and their clicks [n, S] bool."""
