"""Registries of environments and their parts, by name, without importing PyTorch."""

from __future__ import annotations

ENVIRONMENTS = {
    "RecSim-v0": "any",
    "RecSim-ContentWise-v0": "contentwise",
    "RecSim-RL4RS-v0": "rl4rs",
    "RecSim-Position-v0": "position",
    "RecSim-Compete-v0": "compete",
    "RecSim-Clickbait-v0": "clickbait",
    "RecSim-Fatigue-v0": "fatigue",
    "RecSim-Drift-v0": "drift",
    "RecSim-Cold-v0": "cold",
    "RecSim-Explore-v0": "explore",
    "RecSim-Large-v0": "large",
    "RecSim-Gap-v0": "gap",
}
"""Environment ids and their scenarios (see `recsim_env.make`)."""

ACTIONS = {
    "slate": "recsim_env.actions:SlateActions",
    "scores": "recsim_env.actions:ScoreActions",
    "proto": "recsim_env.actions:ProtoActions",
    "arm": "recsim_env.actions:ArmActions",
}
"""Action spaces: `action=…` of `gym.make`."""

OBSERVATIONS = {
    "history": "recsim_env.observations:HistoryObservation",
    "flat": "recsim_env.observations:FlatObservation",
    "state": "recsim_env.observations:StateObservation",
}
"""Observations: `observe=…` of `gym.make`."""

REWARDS = {
    "clicks": "recsim_env.rewards:Clicks",
    "expected_clicks": "recsim_env.rewards:ExpectedClicks",
    "revenue": "recsim_env.rewards:Revenue",
    "expected_revenue": "recsim_env.rewards:ExpectedRevenue",
    "diversity": "recsim_env.rewards:Diversity",
    "novelty": "recsim_env.rewards:Novelty",
    "satisfaction": "recsim_env.rewards:Satisfaction",
    "retention": "recsim_env.rewards:Retention",
    "disagreement": "recsim_env.rewards:Disagreement",
    "supported_clicks": "recsim_env.rewards:SupportedClicks",
}
"""Rewards: `reward=…` of `gym.make`."""
