"""PPO with an LSTM (sb3-contrib) and a categorical choice for each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.ppo import PPOConfig, PPOPolicy
from responders.config import Config, setting


@dataclass(frozen=True)
class RecurrentPPOConfig(PPOConfig):
    """Settings of `RecurrentPPOPolicy`; others have the defaults of `sb3_contrib.RecurrentPPO`."""

    memory_size: int = setting(64, "Units of the LSTMs of actor and critic.", ge=1, le=8192)


class RecurrentPPOPolicy(PPOPolicy):
    """PPO whose actor and critic read the flat observations with LSTMs; see `PositionPolicy`.

    After Ni et al. (ICML 2022). Users of whom nothing is remembered start with an empty memory.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Raises:
        InputError: sb3-contrib is not installed.
    """

    algorithm: ClassVar[str] = "sb3_contrib:RecurrentPPO"
    network_kind: ClassVar[str] = "MlpLstmPolicy"
    config_class: ClassVar[type[Config]] = RecurrentPPOConfig
    config: RecurrentPPOConfig
    _memory: tuple[Tensor, Tensor] | None = None

    def network_settings(self) -> dict[str, Any]:
        return super().network_settings() | {"lstm_hidden_size": self.config.memory_size}

    def reset(self) -> None:
        self._memory = None

    def choices(self, observation: dict[str, Tensor]) -> list[Any]:
        flat = self.flat(observation)
        if self._memory is None:
            empty = torch.zeros(1, len(flat), self.config.memory_size)
            self._memory = (empty, empty)
        new = (observation["step"][:, 0] == 0).float().cpu()
        chosen, self._memory = self.network.get_distribution(flat, self._memory, new)
        return chosen.distribution
