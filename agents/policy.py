"""Policy: everything that recommends."""

from __future__ import annotations

from torch import Tensor

from recsim_env.world import World


class Policy:
    """Chooses slates for B users at a time.

    Args:
        world: tells the catalogue, its rules, the positions and the device; its users' hidden
            state is not looked at.
    """

    def __init__(self, world: World) -> None:
        self.catalogue, self.rules, self.device = world.catalogue, world.rules, world.device
        self.n_items, self.n_positions = world.n_items, world.n_positions

    def reset(self) -> None:
        """Forget the users; all of them start new episodes."""

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        """Return slates [B, S] int64 of catalogue indices for a batched `HistoryObservation`."""
        raise NotImplementedError

    def learn(self, slate: Tensor, click: Tensor) -> None:
        """Learn from slates [n, S] and their clicks [n, S] bool."""
