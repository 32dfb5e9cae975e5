"""Behaviour policies, and the logs that they leave in a world."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from agents.greedy import GreedyConfig, GreedyPolicy
from agents.plackett_luce import log_prob
from agents.policy import Policy
from agents.rollout import joined, rollout
from recsim_env.world import World
from responders import EMPTY, SessionLog
from responders.log import ragged
from responders.log.counts import count

BehaviourName = Literal["random", "popular", "mixed", "responder", "logged"]
"""`random`: uniformly random slates. `popular`: items drawn in proportion to their clicks in a log.
`mixed`: half of the slates are one, half the other. `responder`: of the 1,000 most clicked items,
drawn in proportion to the odds of a click that the responder gives each alone. `logged`: slates of
the log. All but the last leave propensities: the chance of each item, given those above it and
which half the slate is of. They show no item again that the user clicked in the session, if no user
of the log ever clicked an item twice in a session, as with films that are rated once."""
BEHAVIOURS = get_args(BehaviourName)

_USERS = 500  # simulated at once
_CANDIDATES = 1000  # of `responder`
_LAST = -1e4  # added to the logarithms of items that are shown if nothing else is left


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
        self._model = GreedyPolicy(world, GreedyConfig(candidates=_CANDIDATES))
        self._only_once = not repeats_clicks(log)
        self.reset()

    def reset(self) -> None:
        self._model.reset()
        self._clicked: Tensor | None = None  # [B, N] bool

    def act(self, observation: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        b = len(observation["item"])
        if self.name == "logged":
            row = torch.randint(
                len(self._slates), (b,), generator=self._generator, device=self.device
            )
            slate = torch.full((b, self.n_positions), EMPTY)
            drawn = torch.from_numpy(self._slates[row.cpu().numpy()].astype(np.int64))
            width = min(self.n_positions, drawn.shape[1])
            slate[:, :width] = drawn[:, :width]
            return slate.to(self.device)
        # The largest of logarithms with Gumbel noise are draws in proportion, without replacement.
        noise = torch.empty(b, self.n_items, device=self.device)
        noise = -noise.exponential_(generator=self._generator).log()
        score = self._scores(observation)
        slate = self.rules.choose(noise + score)
        return slate, log_prob(score, slate, self.rules).exp()

    def _scores(self, observation: dict[str, Tensor]) -> Tensor:
        """Return the logarithms [B, N] of what items are drawn in proportion to."""
        if self.name == "responder":
            score = self._model.log_odds(observation)
        else:
            chance = {"random": 0.0, "popular": 1.0, "mixed": 0.5}[self.name]
            b = len(observation["item"])
            coin = torch.rand(b, 1, generator=self._generator, device=self.device) < chance
            score = coin * self._log_clicks
        if self._only_once:
            click, item = observation["click"].bool(), observation["item"]
            if self._clicked is None:
                self._clicked = torch.zeros(
                    len(item), self.n_items, dtype=torch.bool, device=self.device
                )
            self._clicked[click.nonzero()[:, 0], item[click]] = True
            score = score + self._clicked * _LAST
        return score


def repeats_clicks(log: SessionLog) -> bool:
    """Return whether an item is clicked twice in a session of the log."""
    slate, position = np.nonzero(log.response)
    session = ragged.owner(log.session_length)[slate]
    pair = session * len(log.catalogue) + log.slate[slate, position]
    return len(np.unique(pair)) < len(pair)


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
    logs, world = list[SessionLog](), new_world(min(_USERS, sessions))
    policy = Behaviour(world, log, name)
    for first in range(0, sessions, _USERS):
        if sessions - first < world.num_users:
            world = new_world(sessions - first)
        policy._generator.manual_seed(seed + first)
        logs.append(rollout(world, policy, seed=seed + first).log)
    return joined(logs)
