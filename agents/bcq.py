"""Batch-constrained Q-learning from a log (d3rlpy)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agents.d3rlpy_package import OfflineConfig, OfflinePolicy
from responders.config import Config, setting


@dataclass(frozen=True)
class BCQConfig(OfflineConfig):
    """Settings of `BCQPolicy`."""

    flexibility: float = setting(
        0.3, "Arms count if the log shows them this often, relative to the likeliest.", gt=0, lt=1
    )
    penalty: float = setting(0.01, "Weight of the squared logits of the imitation.", ge=0)


class BCQPolicy(OfflinePolicy):
    """Discrete batch-constrained Q-learning (Fujimoto et al., 2019).

    Double DQN among the arms that the log's policy is likely to pull in the same state, as a
    network learns that imitates it. A slate shows those of them with the highest values; if they
    are fewer than S, then the likeliest of the others. See `OfflinePolicy` for how a slate becomes
    steps.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the weights and of the order of the log.

    Raises:
        InputError: d3rlpy is not installed.
    """

    algorithm: ClassVar[str] = "DiscreteBCQ"
    config_class: ClassVar[type[Config]] = BCQConfig
    config: BCQConfig

    def settings(self) -> dict[str, Any]:
        return {
            "action_flexibility": self.config.flexibility,
            "beta": self.config.penalty,
            "share_encoder": False,
        }

    def networks(self, modules: Any) -> dict[str, nn.Module]:
        return super().networks(modules) | {"imitator": modules.imitator}

    def values(self, x: Tensor) -> Tensor:
        value, chance = super().values(x), self.net["imitator"](x).logits.softmax(1)
        likely = chance > self.config.flexibility * chance.amax(1, keepdim=True)
        return torch.where(likely, value, value.amin(1, keepdim=True) - 1 + chance)
