"""The policies by name and where to import each from."""

from __future__ import annotations

POLICIES: dict[str, str] = {
    "random": "agents.random:RandomPolicy",
    "popular": "agents.popular:PopularPolicy",
    "epsilon_greedy": "agents.epsilon_greedy:EpsilonGreedyPolicy",
    "ppo": "agents.ppo:PPOPolicy",
    "oracle": "agents.oracle:OraclePolicy",
}
