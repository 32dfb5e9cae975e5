"""PPO (Stable-Baselines3) with a categorical choice among candidates for each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from agents.stable_baselines import PositionConfig, PositionPolicy
from responders.config import Config, setting


@dataclass(frozen=True)
class PPOConfig(PositionConfig):
    """Settings of `PPOPolicy`; others have the defaults of `stable_baselines3.PPO`."""

    minibatches: int = setting(4, "Minibatches of an update.", ge=1)
    n_epochs: int = setting(4, "Passes over the steps in an update.", ge=1)


class PPOPolicy(PositionPolicy):
    """PPO (Schulman et al., 2017) on the flat observation; see `PositionPolicy`.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    algorithm: ClassVar[str] = "stable_baselines3:PPO"
    config_class: ClassVar[type[Config]] = PPOConfig
    config: PPOConfig

    def settings(self, users: int) -> dict[str, Any]:
        config = self.config
        return super().settings(users) | {
            "batch_size": max(config.n_steps * users // config.minibatches, 2),
            "n_epochs": config.n_epochs,
        }
