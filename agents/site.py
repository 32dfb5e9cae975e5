"""Where a policy recommends, without simulated users."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recsim_env.world import World
from responders import Catalogue, Returns, SessionLog
from responders.behaviour.slate_rules import SlateRules
from responders.log.counts import count


@dataclass(frozen=True)
class Site:
    """What a policy needs to know of the place where it recommends; a `World` is one as well.

    Args:
        catalogue: the N items.
        n_positions: S.
        features: [2, F] float32, the mean of the users' features minus and plus their deviation.
        horizon: slates after which an episode is truncated.
        history: slates in observations.
        returns: whether users come back.
        device: of the policy's tensors.
    """

    catalogue: Catalogue
    n_positions: int
    features: Tensor = field(default_factory=lambda: torch.zeros(2, 0))
    horizon: int = 100
    history: int = 10
    returns: Returns | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @staticmethod
    def of(world: World | Site) -> Site:
        """Return the site of a world; it holds nothing of single users."""
        if isinstance(world, Site):
            return world
        return Site(
            catalogue=world.catalogue,
            n_positions=world.n_positions,
            features=_spread(world.features),
            horizon=world.horizon,
            history=world.history,
            returns=world.returns,
            device=world.device,
        )

    @staticmethod
    def of_log(log: SessionLog, device: torch.device | str = "cpu") -> Site:
        """Return the site where a log was recorded; its catalogue counts showings and clicks."""
        shown, clicked = (each.sum(1) for each in count(log, np.arange(log.n_sessions)))
        counted = log.catalogue.attributes | {"shown": shown, "clicked": clicked}
        features = torch.tensor(log.users.features, dtype=torch.float32)
        return Site(
            catalogue=replace(log.catalogue, attributes=counted),
            n_positions=log.n_positions,
            features=_spread(features).to(device),
            device=torch.device(device),
        )

    def standardised(self, user: Tensor) -> Tensor:
        """Return users' features [B, F] minus their mean, divided by their deviation."""
        low, high = self.features
        return (user - (low + high) / 2) / ((high - low) / 2).clamp(min=1e-6)

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.catalogue)

    @cached_property
    def rules(self) -> SlateRules:
        """The rules of valid slates, on the site's device."""
        return SlateRules.of(self.catalogue, self.n_positions).to(self.device)


def _spread(features: Tensor) -> Tensor:
    """Return the mean of features [n, F] minus and plus their deviation, [2, F]."""
    mean = features.mean(0)
    deviation = (features - mean).square().mean(0).sqrt()
    return torch.stack([mean - deviation, mean + deviation])
