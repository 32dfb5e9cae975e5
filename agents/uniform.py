"""Uniformly random slates."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.policy import Policy
from agents.site import Site
from recsim_env.world import World
from responders.behaviour.slate_rules import SlateRules
from responders.config import Config


class RandomPolicy(Policy):
    """Uniformly random valid slates, with their propensities.

    Args:
        world: see `Policy`.
        config: has no settings.
        seed: of the choices.
    """

    def __init__(self, world: World | Site, config: Config | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._chance = chance_at_random(self.rules, self.device)

    def act(self, observation: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        shape = (len(observation["item"]), self.n_items)
        slate = self.rules.choose(torch.rand(shape, generator=self.generator, device=self.device))
        return slate if self._chance is None else (slate, self._chance.expand(shape[0], -1))


def chance_at_random(rules: SlateRules, device: torch.device) -> Tensor | None:
    """Return the chance [S] of each item allowed at a position to be there in a random slate.

    None if the catalogue has special items, whose chance differs from that of other items.
    """
    if rules.special is not None:
        return None
    if rules.allowed is None:
        return torch.full((rules.n_positions,), 1 / rules.n_items, device=device)
    return 1 / rules.allowed.sum(1).clamp(min=1).float()
