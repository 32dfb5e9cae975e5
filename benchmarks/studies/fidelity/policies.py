"""The policies whose values in a learned world are compared with those in the true one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from agents.from_log import LogPolicy
from agents.greedy import GreedyPolicy
from agents.oracle import OraclePolicy
from agents.policy import Policy
from agents.registry import POLICIES
from benchmarks.studies.fidelity.cases import Data
from recsim_env.world import World
from responders import SessionLog
from responders.behaviour.leaving import fit_hazard
from responders.log.counts import count
from responders.models.build import build_responder
from responders.registry import load

NewPolicy = Callable[[World, int], Policy]
"""Makes a policy for a world, with a seed."""

_CLUSTERS = 8


class FixedScores(Policy):
    """Shows the items with the best fixed scores, or with chance `random` a random slate.

    Args:
        world: see `Policy`.
        scores: [N] float.
        random: chance of a random slate, for each user and step.
        upside_down: show the best item last.
        seed: of the random slates.
    """

    def __init__(
        self,
        world: World,
        scores: np.ndarray,
        *,
        random: float = 0.0,
        upside_down: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(world, None, seed)
        self.scores = torch.from_numpy(scores.astype(np.float32)).to(self.device)
        self.random, self.upside_down = random, upside_down
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        b = len(observation["item"])
        slate = self.rules.choose(self.scores).expand(b, -1)
        if self.upside_down:
            slate = slate.flip(1)
        if not self.random:
            return slate
        noise = torch.rand(b, self.n_items + 1, generator=self.generator, device=self.device)
        explore = noise[:, :1] < self.random
        return torch.where(explore, self.rules.choose(noise[:, 1:]), slate)


def policies_for(
    data: Data, users: int, horizon: int, device: torch.device
) -> dict[str, NewPolicy]:
    """Return a dozen or more policies by name, from random to the best that is known.

    Those that learn from logs learn from the sessions that do not count.

    Args:
        data: of a known-truth log.
        users: of the worlds.
        horizon: of the worlds.
        device: of the worlds.
    """
    log = data.log.select(data.known)
    shown, clicked = (table.sum(1) for table in count(data.log, data.known))
    popular = clicked.astype(float)
    rank = np.argsort(np.argsort(-popular, kind="stable"), kind="stable")
    s = data.log.n_positions
    rate = (clicked + 10 * clicked.sum() / shown.sum()) / (shown + 10)
    fixed: dict[str, dict[str, Any]] = {
        "popular": {"scores": popular},
        "popular, 25 % random": {"scores": popular, "random": 0.25},
        "popular, 50 % random": {"scores": popular, "random": 0.5},
        "popular, 75 % random": {"scores": popular, "random": 0.75},
        "runners-up of popular": {"scores": np.where(rank < s, -1.0, popular)},
        "least popular": {"scores": -popular},
        "highest click rate": {"scores": rate},
    }
    if "layer" not in data.log.catalogue.attributes:  # layers fix the order
        fixed["popular, upside down"] = {"scores": popular, "upside_down": True}
    for k, members in enumerate(_clusters(data, popular)):
        fixed[f"popular of cluster {k + 1}"] = {"scores": popular - 1e6 * ~members}
    learned = ("recent_popular", "item_knn", "ease")
    return {
        "random": partial(_registered, "random"),
        **{name: partial(_fixed, **arguments) for name, arguments in fixed.items()},
        **{name: partial(_learned, name, log) for name in learned},
        "greedy on pbm": _greedy_on("pbm", data, users, horizon, device),
        "greedy on the truth": lambda world, seed: OraclePolicy(world, seed=seed),
    }


def _clusters(data: Data, popular: np.ndarray) -> list[np.ndarray]:
    """Return [N] masks of the two most clicked clusters of item features; none without features."""
    features = data.log.catalogue.features
    if not features.shape[1] or len(features) < 10 * _CLUSTERS * data.log.n_positions:
        return []
    label = KMeans(_CLUSTERS, n_init=1, random_state=0).fit_predict(features)
    clicks = np.bincount(label, popular, _CLUSTERS)
    return [label == k for k in np.argsort(-clicks)[:2]]


def _fixed(world: World, seed: int, **arguments: Any) -> Policy:
    return FixedScores(world, seed=seed, **arguments)


def _registered(name: str, world: World, seed: int) -> Policy:
    return load(POLICIES, name, "policy")(world, seed=seed)


def _learned(name: str, log: SessionLog, world: World, seed: int) -> Policy:
    policy = _registered(name, world, seed)
    assert isinstance(policy, LogPolicy)
    policy.fit(log)
    return policy


def _greedy_on(name: str, data: Data, users: int, horizon: int, device: torch.device) -> NewPolicy:
    responder, _ = build_responder(name, data.log, data.known)
    hazard = fit_hazard(data.log, data.known)
    model = World(responder, data.starts, hazard, num_users=users, horizon=horizon, device=device)
    return lambda world, seed: GreedyPolicy(model)
