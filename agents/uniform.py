"""Uniformly random slates."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.policy import Policy
from recsim_env.world import World
from responders.config import Config


class RandomPolicy(Policy):
    """Uniformly random valid slates.

    Args:
        world: see `Policy`.
        config: has no settings.
        seed: of the choices.
    """

    def __init__(self, world: World, config: Config | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        shape = (len(observation["item"]), self.n_items)
        noise = torch.rand(shape, generator=self.generator, device=self.device)
        return self.rules.choose(noise)
