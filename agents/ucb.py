"""Upper confidence bounds on the click rates of items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.policy import Policy
from agents.site import Site
from agents.transition import Transition
from recsim_env.world import World
from responders.config import Config, setting


@dataclass(frozen=True)
class UCBConfig(Config):
    """Settings of `UCBPolicy`."""

    exploration: float = setting(0.3, "Factor of the width of the bound; √2 in UCB1.", ge=0)


class UCBPolicy(Policy):
    """UCB1 (Auer, Cesa-Bianchi and Fischer, 2002) with an arm for each item.

    Shows the items with the highest click rate + exploration · √(ln t / n), of n impressions of the
    item and t of all; items that were never shown come first, in a random order for each user.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of that order.
    """

    config_class: ClassVar[type[Config]] = UCBConfig
    config: UCBConfig

    def __init__(self, world: World | Site, config: UCBConfig | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        self.exploration = self.config.exploration
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.clicked = torch.zeros(self.n_items, device=self.device)
        self.shown = torch.zeros(self.n_items, device=self.device)

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        shown = self.shown.clamp(min=1)
        log_t = self.shown.sum().clamp(min=1).log()
        bound = self.score(observation) + self.exploration * (log_t / shown).sqrt()
        shape = (len(observation["item"]), self.n_items)
        noise = torch.rand(shape, generator=self.generator, device=self.device)
        new = bound.max() + 1 + noise
        return self.rules.choose(torch.where(self.shown > 0, bound, new))

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        return self.clicked / self.shown.clamp(min=1)

    def learn(self, transition: Transition) -> None:
        shown, clicked = transition.counts(self.n_items)
        self.shown += shown
        self.clicked += clicked
