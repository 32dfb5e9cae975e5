"""The items that were most popular of late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from agents.from_log import LogPolicy
from agents.site import Site
from recsim_env.world import World
from responders import SessionLog
from responders.config import Config, setting

_DAY = 86_400


@dataclass(frozen=True)
class RecentPopularConfig(Config):
    """Settings of `RecentPopularPolicy`."""

    half_life: float = setting(7.0, "Days after which a click counts half.", gt=0)


class RecentPopularPolicy(LogPolicy):
    """Shows everybody the items with the most clicks, of which older ones count less.

    A click counts 2^(−age / half-life), where age is the time to the last slate of the log; an
    exponential form of popularity at the time of the recommendation (Ji et al., SIGIR 2020,
    arXiv 2005.13829).

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the log of random slates.
    """

    config_class: ClassVar[type[Config]] = RecentPopularConfig
    config: RecentPopularConfig

    def __init__(
        self, world: World | Site, config: RecentPopularConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        self.clicks = torch.zeros(self.n_items, device=self.device)

    def fit_log(self, log: SessionLog) -> None:
        age = (log.time.max() - log.time) / _DAY
        row, position = np.nonzero(log.response)
        weight = 0.5 ** (age[row] / self.config.half_life)
        self.clicks = self.tensor(np.bincount(log.slate[row, position], weight, self.n_items))

    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        return self.clicks
