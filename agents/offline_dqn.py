"""DQN from a log, without acting (d3rlpy)."""

from __future__ import annotations

from typing import ClassVar

from agents.d3rlpy_package import OfflinePolicy


class OfflineDQNPolicy(OfflinePolicy):
    """DQN (Mnih et al., 2015) on logged steps, without a correction for arms that the log lacks.

    See `OfflinePolicy` for how a slate becomes steps.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the weights and of the order of the log.

    Raises:
        InputError: d3rlpy is not installed.
    """

    algorithm: ClassVar[str] = "DQN"
