"""DQN (Stable-Baselines3) over arms, one for each candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.site import Site
from agents.stable_baselines import ReplayConfig, ReplayPolicy
from recsim_env.actions import ArmActions
from recsim_env.candidates import Candidates, popular_table
from recsim_env.world import World
from responders.config import Config, setting


@dataclass(frozen=True)
class DQNConfig(ReplayConfig):
    """Settings of `DQNPolicy`; others have the defaults of `stable_baselines3.DQN`."""

    candidates: int = setting(50, "Most clicked items at each position, each an arm.", ge=1)
    epsilon: float = setting(0.1, "Chance of a random arm in training, at the end.", ge=0, le=1)
    explore: float = setting(
        0.3, "Share of the training in which that chance falls from 1 to epsilon.", ge=0, le=1
    )
    target_rate: float = setting(
        0.1, "Share of the way that the target goes to the network after a step.", gt=0, le=1
    )


class DQNPolicy(ReplayPolicy):
    """DQN (Mnih et al., 2015) on the flat observation, with an arm for each candidate.

    In training, an arm shows its item alone, at the top; with layers, where that is not a valid
    slate, at the first position where it is allowed, among the most clicked items. Otherwise the
    policy shows the S items whose arms have the highest values, best first.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    algorithm: ClassVar[str] = "stable_baselines3:DQN"
    config_class: ClassVar[type[Config]] = DQNConfig
    config: DQNConfig

    def __init__(self, world: World | Site, config: DQNConfig | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        self._items = self._table(cast(World, self.site)).unique().cpu()

    def _table(self, world: World) -> Tensor:
        return popular_table(world, min(self.config.candidates, self.n_items))

    def actions(self, world: World) -> ArmActions:
        table = self._table(world)
        items, order = table.unique(), table.t().flatten().flip(0)
        if world.rules.allowed is None:
            return ArmActions(world, Candidates(world, items.expand(self.n_positions, -1)))
        # The most clicked items score up to C · S, in their order; the arm's own item scores more.
        popular = torch.zeros(self.n_items, device=world.device)
        popular[order] = torch.arange(1.0, len(order) + 1, device=world.device)
        own = F.one_hot(items, self.n_items) * 2.0 * len(order)
        return ArmActions(world, Candidates(world), world.rules.choose(popular + own))

    def settings(self, users: int) -> dict[str, Any]:
        config = self.config
        return super().settings(users) | {
            "tau": config.target_rate,
            "target_update_interval": users,  # once after each step of all users
            "exploration_fraction": config.explore,
            "exploration_final_eps": config.epsilon,
        }

    @torch.inference_mode()
    def score(self, observation: dict[str, Tensor]) -> Tensor:
        return self.among_all(self.network.q_net(self.flat(observation)), self._items)
