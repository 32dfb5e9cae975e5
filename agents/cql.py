"""Conservative Q-learning from a log (d3rlpy)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from agents.d3rlpy_package import OfflineConfig, OfflinePolicy
from responders.config import Config, setting


@dataclass(frozen=True)
class CQLConfig(OfflineConfig):
    """Settings of `CQLPolicy`."""

    alpha: float = setting(0.1, "Weight of the penalty on arms that the log lacks.", ge=0)


class CQLPolicy(OfflinePolicy):
    """Discrete conservative Q-learning (Kumar et al., 2020).

    Double DQN with a penalty that lowers the values of all arms and raises those of the logged
    ones. See `OfflinePolicy` for how a slate becomes steps.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the weights and of the order of the log.

    Raises:
        InputError: d3rlpy is not installed.
    """

    algorithm: ClassVar[str] = "DiscreteCQL"
    config_class: ClassVar[type[Config]] = CQLConfig
    config: CQLConfig

    def settings(self) -> dict[str, Any]:
        return {"alpha": self.config.alpha}
