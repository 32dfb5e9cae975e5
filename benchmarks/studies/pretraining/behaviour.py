"""Behaviour policies, and the logs that they leave in a world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from agents.plackett_luce import log_prob
from agents.policy import Policy
from agents.rollout import rollout
from recsim_env.world import World
from responders import EMPTY, SessionLog
from responders.log.counts import count

BehaviourName = Literal["random", "popular", "mixed", "logged"]
"""`random`: uniformly random slates. `popular`: items drawn in proportion to their clicks in a log.
`mixed`: half of the slates are one, half the other. `logged`: slates of the log. All but the last
leave propensities: the chance of each item, given those above it and which half the slate is of."""
BEHAVIOURS = get_args(BehaviourName)

_USERS = 500  # simulated at once


class Behaviour(Policy):
    """Shows slates for others to learn from.

    Args:
        world: see `Policy`.
        log: whose clicks and slates it knows, of the same catalogue.
        name: see `BehaviourName`.
        seed: of the draws.
    """

    def __init__(self, world: World, log: SessionLog, name: BehaviourName, seed: int = 0) -> None:
        super().__init__(world, seed=seed)
        self.name = name
        self._generator = torch.Generator(self.device).manual_seed(seed)
        clicked = count(log, np.arange(log.n_sessions))[1].sum(1)
        self._log_clicks = torch.from_numpy(np.log(clicked + 1.0)).float().to(self.device)
        self._slates = log.slate

    def act(self, observation: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        b = len(observation["item"])
        if self.name == "logged":
            row = torch.randint(len(self._slates), (b,), generator=self._generator)
            slate = torch.full((b, self.n_positions), EMPTY)
            drawn = torch.from_numpy(self._slates[row.numpy()].astype(np.int64))
            width = min(self.n_positions, drawn.shape[1])
            slate[:, :width] = drawn[:, :width]
            return slate.to(self.device)
        # The largest of logarithms with Gumbel noise are draws in proportion, without replacement.
        noise = torch.empty(b, self.n_items, device=self.device)
        noise = -noise.exponential_(generator=self._generator).log()
        chance = {"random": 0.0, "popular": 1.0, "mixed": 0.5}[self.name]
        coin = torch.rand(b, 1, generator=self._generator, device=self.device) < chance
        score = coin * self._log_clicks
        slate = self.rules.choose(noise + score)
        return slate, log_prob(score, slate, self.rules).exp()


def simulate(
    new_world: Callable[[int], World],
    log: SessionLog,
    name: BehaviourName,
    sessions: int,
    seed: int,
) -> SessionLog:
    """Return the log of a behaviour policy, a new user for each session.

    Args:
        new_world: returns a world with the given number of users.
        log: see `Behaviour`.
        name: see `BehaviourName`.
        sessions: of the log.
        seed: of users and draws.
    """
    logs: list[SessionLog] = []
    for first in range(0, sessions, _USERS):
        world = new_world(min(_USERS, sessions - first))
        policy = Behaviour(world, log, name, seed=seed + first)
        part = rollout(world, policy, seed=seed + first).log
        logs.append(replace(part, users=replace(part.users, ids=part.users.ids + first)))
    return SessionLog.concat(logs)
