"""The registry of policies by name, without importing PyTorch."""

from __future__ import annotations

POLICIES = {
    "random": "agents.uniform:RandomPolicy",
    "popular": "agents.popular:PopularPolicy",
    "epsilon_greedy": "agents.epsilon_greedy:EpsilonGreedyPolicy",
    "ppo": "agents.ppo:PPOPolicy",
    "oracle": "agents.oracle:OraclePolicy",
}
"""The policies that `recsim bench` can run."""
