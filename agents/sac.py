"""SAC (Stable-Baselines3) whose actions are scores of candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from agents.site import Site
from agents.stable_baselines import EntropyPolicy, ReplayConfig
from recsim_env.actions import ScoreActions
from recsim_env.candidates import Candidates, popular_table
from recsim_env.world import World
from responders.config import Config, setting


@dataclass(frozen=True)
class SACConfig(ReplayConfig):
    """Settings of `SACPolicy`; others have the defaults of `stable_baselines3.SAC`."""

    candidates: int = setting(50, "Most clicked items to score; at least S.", ge=1)


class SACPolicy(EntropyPolicy):
    """SAC (Haarnoja et al., ICML 2018) on the flat observation; the action scores the candidates.

    The S candidates with the best scores are shown. Where a catalogue has rules, all of its items
    are scored.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    config_class: ClassVar[type[Config]] = SACConfig
    config: SACConfig

    def __init__(self, world: World | Site, config: SACConfig | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        table = self.actions(cast(World, self.site)).candidates.table
        self._items = torch.arange(self.n_items) if table is None else table[0].cpu()

    def actions(self, world: World) -> ScoreActions:
        if world.rules.exist:
            return ScoreActions(world, Candidates(world))
        n = min(max(self.config.candidates, self.n_positions), self.n_items)
        return ScoreActions(world, Candidates(world, popular_table(world, n)))

    @torch.inference_mode()
    def score(self, observation: dict[str, Tensor]) -> Tensor:
        action, _ = self.network.predict(self.flat(observation).numpy(), deterministic=True)
        return self.among_all(torch.from_numpy(action), self._items)
