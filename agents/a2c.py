"""A2C (Stable-Baselines3) with a categorical choice among candidates for each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agents.stable_baselines import PositionConfig, PositionPolicy
from responders.config import Config, setting


@dataclass(frozen=True)
class A2CConfig(PositionConfig):
    """Settings of `A2CPolicy`; others have the defaults of `stable_baselines3.A2C`."""

    n_steps: int = setting(1, "Steps of a user between updates.", ge=1)
    learning_rate: float = setting(0.003, "Of RMSprop.", gt=0)


class A2CPolicy(PositionPolicy):
    """A2C (Mnih et al., ICML 2016, synchronous) on the flat observation; see `PositionPolicy`.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    algorithm: ClassVar[str] = "stable_baselines3:A2C"
    config_class: ClassVar[type[Config]] = A2CConfig
    config: A2CConfig
