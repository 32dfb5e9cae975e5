"""The oracle of a known-truth world."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from agents.policy import Policy
from agents.site import Site
from agents.tracking import StateTracker
from recsim_env.world import World
from responders import InputError
from responders.config import Config
from responders.known_truth.world import truth_of


class OraclePolicy(Policy):
    """Shows the items that the users of a known-truth world are most likely to click.

    It tracks each user's true state from what is visible (features, slates, clicks) and fills the
    positions greedily by true probability, given the items above. It maximises the clicks of one
    slate at a time: a strong reference, but not optimal. In a world with layers, the last layer is
    filled by price × probability, the others by probability.

    Args:
        world: its users must come from a synthetic log.

    Raises:
        InputError: the users of the world are not from a known-truth world.
    """

    def __init__(self, world: World | Site, config: Config | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        truth = None if isinstance(world, Site) else truth_of(world.initial_sessions)
        if truth is None:
            raise InputError(
                "the oracle needs a known-truth world, whose users' probabilities are known"
            )
        self._truth = truth.to(self.device)
        self._tracker = StateTracker(self._truth, self.n_positions)
        price = self.catalogue.price
        self._price = None if price is None else torch.from_numpy(price.copy()).to(self.device)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Raise `InputError`: the oracle is the truth of its world and has learned nothing."""
        raise InputError("the oracle cannot be saved: make it from its world")

    def reset(self) -> None:
        self._tracker.reset()

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        return self._fill(self._truth.attraction(self._tracker.state(observation)))

    def _fill(self, attraction: Tensor) -> Tensor:
        config, location = self._truth.config, self._truth.location
        if not (config.competition or config.layers):  # the items above change nothing
            return self.rules.choose(attraction)
        slate = torch.full((len(attraction), self.n_positions), -1, device=self.device)
        above = attraction.new_zeros(len(attraction), config.dimensions)
        for s in range(self.n_positions):
            similarity = (above @ location[:-1].t() / max(s, 1)).clamp(min=0)
            value = (attraction - config.competition * similarity).sigmoid()
            last_layer = config.layers and s >= self.n_positions * (1 - 1 / config.layers)
            if last_layer and self._price is not None:
                value = value * self._price
            slate[:, s] = self.rules.best(value, slate, s)
            above = above + location[slate[:, s]]
        return slate
