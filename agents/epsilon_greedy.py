"""Bandits on items: ε-greedy."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.policy import Policy
from recsim_env.world import World
from responders import InputError

_PRIOR_CLICKS, _PRIOR_SHOWN = 1.0, 10.0


class EpsilonGreedyPolicy(Policy):
    """Shows the items with the highest click rate so far; with chance ε a random slate.

    Args:
        world: see `Policy`.
        epsilon: chance of a random slate, in [0, 1].
        seed: of the exploration.
    """

    def __init__(self, world: World, epsilon: float = 0.1, seed: int = 0) -> None:
        super().__init__(world)
        if not 0 <= epsilon <= 1:
            raise InputError(f"epsilon must be in [0, 1], not {epsilon}")
        self.epsilon = epsilon
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.clicked = torch.full((self.n_items,), _PRIOR_CLICKS, device=self.device)
        self.shown = torch.full((self.n_items,), _PRIOR_SHOWN, device=self.device)

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        """Return slates; see `Policy.act`."""
        b = len(observation["item"])
        greedy = self.rules.choose(self.clicked / self.shown).expand(b, -1)
        explore = torch.rand(b, generator=self.generator, device=self.device) < self.epsilon
        if not bool(explore.any()):
            return greedy
        noise = torch.rand(b, self.n_items, generator=self.generator, device=self.device)
        return torch.where(explore.unsqueeze(1), self.rules.choose(noise), greedy)

    def learn(self, slate: Tensor, click: Tensor) -> None:
        """Count impressions and clicks; see `Policy.learn`."""
        shown = slate >= 0
        self.shown += torch.bincount(slate[shown], minlength=self.n_items)
        self.clicked += torch.bincount(slate[shown & click], minlength=self.n_items)
