"""The simulators that ours is compared with, without importing them."""

from __future__ import annotations

from typing import NamedTuple


class Peer(NamedTuple):
    """One row of the comparison.

    Args:
        code: "file:function" in this folder. The function takes the numbers of users and items and
            the size of a slate. It returns `step(i)`, which takes step i and returns the number of
            users who answered a slate in it.
        distribution: the name of the installed package.
        users: number of users simulated at once.
        setting: description of what is measured.
    """

    code: str
    distribution: str
    users: int
    setting: str


PEERS: dict[str, Peer] = {
    "recsim": Peer(
        "recsim:interest_evolution", "recsim", 1,
        "Interest evolution, 1 user, slate 10 of 1,000 fixed candidates",
    ),
    "recsim_resampled": Peer(
        "recsim:interest_evolution_resampled", "recsim", 1,
        "Interest evolution, 1 user, slate 10 of 1,000 candidates, drawn again at every step",
    ),
    "recsim_exploration": Peer(
        "recsim:interest_exploration", "recsim", 1,
        "Interest exploration, 1 user, slate 10 of 1,000 fixed candidates; users never leave",
    ),
    "recsim_users": Peer(
        "recsim:interest_evolution_users", "recsim", 64,
        "Interest evolution, 64 users (MultiUserEnvironment), slate 10 of 1,000 fixed candidates",
    ),
    "recsim_ng": Peer(
        "recsim_ng:stepwise", "recsim-ng", 1024,
        "Interest evolution, 1,024 users, slate 10 of 1,000, 20 topics; slates given from outside",
    ),
    "recsim_ng_rollout": Peer(
        "recsim_ng:rollout", "recsim-ng", 1024,
        "Interest evolution, 1,024 users, slate 10 of 1,000, 20 topics; 100 steps in one graph",
    ),
    "sardine": Peer(
        "sardine:slate_top_k", "sardine-rec", 1, "SlateTopK-BoredInf-v0, 1 user, slate 10 of 1,000"
    ),
    "recogym": Peer(
        "recogym:reco_gym", "recogym", 1,
        "RecoGym reco-gym-v1, 1 user, one item of 1,000 (it has no slates)",
    ),
    "trecs": Peer(
        "trecs:random_recommender", "trecs", 1024,
        "T-RECS RandomRecommender, 1,024 users, slate 10 of 1,000, 8 attributes",
    ),
    "reclab": Peer(
        "reclab:beta_rank", "reclab", 1024,
        "RecLab BetaRank, 1,024 users, all online, slate 10 of 1,000, 20 topics",
    ),
    "virtual_taobao": Peer(
        "virtual_taobao:virtual_taobao", "virtualTB", 1,
        "VirtualTB, 1 user, the action is a vector of 27 weights that selects a page of items",
    ),
}  # fmt: skip
"""Peers with the same distribution share an interpreter."""
