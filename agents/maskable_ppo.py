"""PPO with masks (sb3-contrib): positions choose only among items that are valid there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from agents.ppo import PPOConfig, PPOPolicy
from responders.config import Config, setting


@dataclass(frozen=True)
class MaskablePPOConfig(PPOConfig):
    """Settings of `MaskablePPOPolicy`; others have the defaults of `sb3_contrib.MaskablePPO`."""

    candidates: int = setting(100, "Most clicked items to choose from at each position.", ge=1)


class MaskablePPOPolicy(PPOPolicy):
    """PPO that never draws an invalid choice (Huang and Ontañón, 2022); see `PositionPolicy`.

    Choices are invalid where the layer of a position has fewer items than there are candidates;
    without layers it is PPO.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Raises:
        InputError: sb3-contrib is not installed.
    """

    algorithm: ClassVar[str] = "sb3_contrib:MaskablePPO"
    config_class: ClassVar[type[Config]] = MaskablePPOConfig
    config: MaskablePPOConfig

    def choices(self, observation: dict[str, Tensor]) -> list[Any]:
        flat, mask = self.flat(observation), self._actions.mask()
        masks = None if mask is None else mask.cpu().expand(len(flat), -1)
        return self.network.get_distribution(flat, masks).distributions
