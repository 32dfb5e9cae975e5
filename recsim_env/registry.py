"""The environments by id."""

from __future__ import annotations

ENVIRONMENTS = {
    "RecSim-v0": "any",
    "RecSim-ContentWise-v0": "contentwise",
    "RecSim-RL4RS-v0": "rl4rs",
}
"""Environment ids and the scenario (see `recsim_env.make`) that each one makes."""
