"""ε-greedy on the click rates of items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.policy import Policy
from agents.site import Site
from agents.transition import Transition
from agents.uniform import chance_at_random
from recsim_env.world import World
from responders.config import Config, setting


@dataclass(frozen=True)
class EpsilonGreedyConfig(Config):
    """Settings of `EpsilonGreedyPolicy`."""

    epsilon: float = setting(0.1, "Chance of a random slate.", ge=0, le=1)
    prior_clicks: float = setting(1.0, "Initial clicks of every item.", gt=0)
    prior_shown: float = setting(10.0, "Initial impressions of every item.", gt=0)


class EpsilonGreedyPolicy(Policy):
    """Shows the items with the highest click rate so far, or with chance ε a random slate.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the exploration.
    """

    config_class: ClassVar[type[Config]] = EpsilonGreedyConfig
    config: EpsilonGreedyConfig

    def __init__(
        self, world: World | Site, config: EpsilonGreedyConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        self.epsilon = self.config.epsilon
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.clicked = torch.full((self.n_items,), self.config.prior_clicks, device=self.device)
        self.shown = torch.full((self.n_items,), self.config.prior_shown, device=self.device)
        self._chance = chance_at_random(self.rules, self.device)

    def act(self, observation: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        b = len(observation["item"])
        slate = greedy = self.rules.choose(self.score(observation)).expand(b, -1)
        explore = torch.rand(b, generator=self.generator, device=self.device) < self.epsilon
        if bool(explore.any()):
            noise = torch.rand(b, self.n_items, generator=self.generator, device=self.device)
            slate = torch.where(explore.unsqueeze(1), self.rules.choose(noise), greedy)
        if self._chance is None:
            return slate
        chance = self.epsilon * self._chance + (1 - self.epsilon) * (slate == greedy)
        return slate, chance

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        return self.clicked / self.shown

    def learn(self, transition: Transition) -> None:
        shown, clicked = transition.counts(self.n_items)
        self.shown += shown
        self.clicked += clicked
