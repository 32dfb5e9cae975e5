"""Sessions of simulated users under the policy of a log.

The policy of a known-truth log is run again: it reacts to what the simulated users click. Of other
logs the slates are replayed, which cannot react.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from recsim_env.world import World
from responders import EMPTY, SessionLog
from responders.known_truth.logs import POLICIES, LoggingPolicy
from responders.known_truth.world import truth_of
from responders.log import ragged
from responders.models.state import take_rows
from responders.training.checkpoint import Checkpoint

_USERS = 1024  # at a time
_NEAREST = 16


class Slates(Protocol):
    """Chooses the slates of the B users of a world."""

    def at(self, step: int, alive: np.ndarray) -> Tensor:
        """Return the slates [B, S] with number `step`; only those of users `alive` [B] count."""

    def answered(self, slate: Tensor, click: Tensor) -> None:
        """See how the users answered, [B, S] each."""


def reruns_policy(log: SessionLog) -> bool:
    """Return whether the logging policy is known, so that it can be run again."""
    return truth_of(log) is not None and log.card.get("policy") in POLICIES


class PolicyAgain:
    """The logging policy of a known-truth log.

    Args:
        log: from `synthesize`.
        sessions: [B] the sessions whose users see the slates.
        seed: of the policy.
    """

    def __init__(self, log: SessionLog, sessions: np.ndarray, seed: int) -> None:
        truth = truth_of(log)
        assert truth is not None
        self.truth, self.policy = truth, LoggingPolicy(truth, log.card["policy"])
        self.state = truth.start(torch.from_numpy(log.users.features[log.user[sessions]]))
        self.generator = torch.Generator().manual_seed(seed)
        self.previous: Tensor | None = None

    def at(self, step: int, alive: np.ndarray) -> Tensor:
        """See `Slates`."""
        rows = torch.from_numpy(np.flatnonzero(alive))  # few at the end, when it is slowest
        before = None if self.previous is None else self.previous[rows]
        chosen = self.policy(take_rows(self.state, rows), self.generator, before)
        slate = torch.full((len(alive), chosen.shape[1]), EMPTY)
        self.previous = slate.index_copy(0, rows, chosen)
        return self.previous

    def answered(self, slate: Tensor, click: Tensor) -> None:
        """See `Slates`."""
        self.state = self.truth.observe(self.state, slate, click.float())


class LoggedSlates:
    """The slates of the logged sessions, then those of others.

    A user who outlives the logged session goes on with the slates that another session shows from
    that slate number on, until it ends as well, and so on. It is drawn from the longer sessions of
    the most similar users: those with the nearest features or, if the log has no features, first
    the user's own and then any. So no session is cut where the logged one ended.

    Args:
        log: all sessions, whose slates may be shown.
        sessions: [B] the sessions that are simulated.
        seed: of the draws.
    """

    def __init__(self, log: SessionLog, sessions: np.ndarray, seed: int) -> None:
        self.log, self.user = log, log.user[sessions]
        self.length = log.session_length
        self.source = sessions.copy()  # where the next slate comes from
        self.rng = np.random.default_rng(seed)
        features = log.users.features
        self.place = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)

    def at(self, step: int, alive: np.ndarray) -> Tensor:
        """See `Slates`."""
        ended = np.flatnonzero(alive & (self.length[self.source] <= step))
        if len(ended):
            self.source[ended] = self._others(step, self.user[ended])
        row = self.log.session_start[self.source] + np.minimum(step, self.length[self.source] - 1)
        return torch.from_numpy(self.log.slate[row].astype(np.int64))

    def _others(self, step: int, users: np.ndarray) -> np.ndarray:
        """Return sessions with more than `step` slates for each of `users`."""
        longer = np.flatnonzero(self.length > step)
        if not self.place.shape[1]:
            by_user = longer[np.argsort(self.log.user[longer], kind="stable")]
            first = np.searchsorted(self.log.user[by_user], users)
            n_own = np.searchsorted(self.log.user[by_user], users, "right") - first
            has_own = n_own > 0
            pick = self.rng.integers(0, np.where(has_own, n_own, len(longer)))
            return np.where(has_own, by_user[first * has_own + pick], longer[pick])
        k = min(_NEAREST, len(longer))
        places = NearestNeighbors(n_neighbors=k).fit(self.place[self.log.user[longer]])
        near = places.kneighbors(self.place[users], return_distance=False)
        # Mostly the closest, but not always: many users would be shown the same slates.
        pick = np.minimum(self.rng.geometric(0.5, len(users)) - 1, k - 1)
        return longer[near[np.arange(len(users)), pick]]

    def answered(self, slate: Tensor, click: Tensor) -> None:
        """See `Slates`."""


def without_copies(log: SessionLog) -> SessionLog:
    """Return the log with repeated items of a slate blanked, as a world does with them."""
    slate = log.slate
    copy = np.zeros(slate.shape, bool)
    for s in range(1, slate.shape[1]):
        copy[:, s] = (slate[:, :s] == slate[:, s : s + 1]).any(1) & (slate[:, s] != EMPTY)
    if not copy.any():
        return log
    return replace(
        log,
        slate=np.where(copy, EMPTY, slate),
        response=np.where(copy, 0, log.response),
        propensity=None,
    )


def simulate(
    checkpoint: Checkpoint,
    log: SessionLog,
    sessions: np.ndarray,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SessionLog:
    """Simulate `sessions` of `log` again: the same users, other clicks and lengths.

    Slates are those of `PolicyAgain` if the logging policy is known, otherwise of `LoggedSlates`. A
    session ends when the simulated user leaves, at the latest after as many slates as the longest
    logged session.

    Args:
        checkpoint: the users, and when they leave.
        log: with the responder's catalogue.
        sessions: [E] indices.
        seed: of slates, clicks and leaving.
        device: where to simulate.

    Returns:
        A log of E sessions in the order of `sessions`, whose users have the same indices as there.
    """
    kind = PolicyAgain if reruns_policy(log) else LoggedSlates
    slates, clicks, owners = [], [], []
    groups = np.array_split(np.arange(len(sessions)), -(-len(sessions) // _USERS))
    for group in groups:
        world = _world(checkpoint, log, sessions[group], seed, int(group[0]), device)
        source: Slates = kind(log, sessions[group], seed + int(group[0]))
        alive = np.ones(len(group), bool)
        while alive.any():
            slate = torch.nn.functional.pad(
                source.at(int(world.episodes.step[0]), alive),
                (0, world.n_positions - log.n_positions),
                value=EMPTY,
            )
            outcome = world.step(slate.to(world.device))
            shown, click = (t[:, : log.n_positions].cpu() for t in (outcome.slate, outcome.click))
            source.answered(shown, click)
            slates.append(shown.numpy()[alive])
            clicks.append(click.numpy()[alive])
            owners.append(group[alive])
            alive &= ~(outcome.left | outcome.truncated).cpu().numpy()
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    length = np.bincount(owner, minlength=len(sessions))
    return SessionLog(
        slate=np.concatenate(slates)[order],
        response=np.concatenate(clicks)[order],
        session_start=ragged.offsets(length),
        user=log.user[sessions],
        time=ragged.place(length) + 1,
        catalogue=log.catalogue,
        users=log.users,
        card={"name": "simulated users under the policy of a log", "synthetic": True},
    )


def _world(
    checkpoint: Checkpoint,
    log: SessionLog,
    sessions: np.ndarray,
    seed: int,
    first_user: int,
    device: torch.device | str,
) -> World:
    """Return a world in which user b is the user of session b."""
    world = World(
        checkpoint.responder,
        replace(log.select(sessions, first_slates=1), propensity=None),
        checkpoint.hazard,
        num_users=len(sessions),
        horizon=int(log.session_length.max()),
        history=1,
        seed=seed,
        first_user=first_user,
        device=device,
    )
    world.reset(user=torch.arange(len(sessions), device=world.device))
    return world
