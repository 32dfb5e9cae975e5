"""The far-sighted reference of a known-truth world."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from agents.oracle import OraclePolicy
from agents.rollout import rollout
from agents.site import Site
from recsim_env.world import World
from responders.config import Config

PENALTIES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)


class FarSightedPolicy(OraclePolicy):
    """The oracle, with a penalty on the allure of items: what users regret makes them leave.

    It ranks items by true log-odds − λ × allure. `train` plays each λ of `PENALTIES` with the true
    users and keeps the best, whatever the number of steps. It is a reference, not the optimum: λ is
    the same for all users and slates. Without clickbait it is the oracle.

    Args:
        world: its users must come from a synthetic log.

    Raises:
        InputError: the users of the world are not from a known-truth world.
    """

    def __init__(self, world: World | Site, config: Config | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        self.penalty = 0.0

    def train(self, world: World, steps: int, seed: int) -> int:
        if self._truth.config.clickbait:
            self.penalty = max(PENALTIES, key=partial(self._reward, world, seed))
        return 0

    def _reward(self, world: World, seed: int, penalty: float) -> float:
        self.penalty = penalty
        return float(rollout(world, self, seed).reward.mean())

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        attraction = self._truth.attraction(self._tracker.state(observation))
        return self._fill(attraction - self.penalty * self._truth.allure[:-1])
