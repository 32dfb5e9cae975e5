"""The registry of policies by name, without importing PyTorch."""

from __future__ import annotations

from importlib.metadata import entry_points

POLICIES = {
    "random": "agents.uniform:RandomPolicy",
    "popular": "agents.popular:PopularPolicy",
    "recent_popular": "agents.recent_popular:RecentPopularPolicy",
    "item_knn": "agents.item_knn:ItemKNNPolicy",
    "ease": "agents.ease:EASEPolicy",
    "als": "agents.als:ALSPolicy",
    "bpr": "agents.bpr:BPRPolicy",
    "sasrec": "agents.sasrec:SASRecPolicy",
    "gru4rec": "agents.gru4rec:GRU4RecPolicy",
    "bert4rec": "agents.bert4rec:BERT4RecPolicy",
    "pnfrec": "agents.pnfrec:PNFRecPolicy",
    "reinforce": "agents.reinforce:ReinforcePolicy",
    "behaviour_cloning": "agents.behaviour_cloning:BehaviourCloningPolicy",
    "offline_dqn": "agents.offline_dqn:OfflineDQNPolicy",
    "cql": "agents.cql:CQLPolicy",
    "bcq": "agents.bcq:BCQPolicy",
    "decision_transformer": "agents.decision_transformer:DecisionTransformerPolicy",
    "epsilon_greedy": "agents.epsilon_greedy:EpsilonGreedyPolicy",
    "ucb": "agents.ucb:UCBPolicy",
    "lin_ucb": "agents.lin_ucb:LinUCBPolicy",
    "lin_ts": "agents.lin_ts:LinTSPolicy",
    "gru_ts": "agents.gru_ts:GRUTSPolicy",
    "greedy": "agents.greedy:GreedyPolicy",
    "slate_greedy": "agents.slate_greedy:SlateGreedyPolicy",
    "look_ahead": "agents.look_ahead:LookAheadPolicy",
    "ppo": "agents.ppo:PPOPolicy",
    "a2c": "agents.a2c:A2CPolicy",
    "dqn": "agents.dqn:DQNPolicy",
    "maskable_ppo": "agents.maskable_ppo:MaskablePPOPolicy",
    "recurrent_ppo": "agents.recurrent_ppo:RecurrentPPOPolicy",
    "sac": "agents.sac:SACPolicy",
    "gems": "agents.gems:GeMSPolicy",
    "wolpertinger": "agents.wolpertinger:WolpertingerPolicy",
    "slate_ppo": "agents.slate_ppo:SlatePPOPolicy",
    "slateq": "agents.slateq:SlateQPolicy",
    "oracle": "agents.oracle:OraclePolicy",
    "far_sighted": "agents.far_sighted:FarSightedPolicy",
}
"""The policies that `recsim bench` can run."""

GROUP = "recsim_env.policies"
"""The entry points by which installed packages add theirs."""


def known_policies() -> dict[str, str]:
    """Return `POLICIES` and the policies of installed packages, name → "module:Class"."""
    return {point.name: point.value for point in entry_points(group=GROUP)} | POLICIES
