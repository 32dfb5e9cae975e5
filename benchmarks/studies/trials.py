"""The trials of a leaderboard: train one policy, run it with simulated users, measure it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from agents.finding import Entry, find_policy
from agents.from_log import LogPolicy
from agents.policy import Policy
from agents.rollout import Rollout, rollout
from benchmarks.harness import time_calls
from recsim_env.observations import HistoryObservation
from recsim_env.outcome import Answer
from recsim_env.rewards import RewardContext, make_reward
from recsim_env.world import World
from responders import EMPTY, InputError, SessionLog
from responders.files import write_json

NewWorld = Callable[[int], World]
"""Returns a world with the given number of users."""

TRAINING_SEED = 1_000_000  # so that training and evaluation draw other random numbers
TRAINING_USERS = 256
_BLOCK = 1 << 16  # slates measured at a time, to bound memory


class Trial(BaseModel):
    """What a policy with one seed did.

    Args:
        policy: its name.
        seed: of the policy and the users.
        reward: of each user, in the order of the users.
        clicks: of each session; users who were shown nothing have none.
        shown: items shown in each session.
        length: slates of each session.
        diversity: of each session, the mean over its slates of the reward `diversity`; None if
            items have no features.
        novelty: likewise; None if the training log's impressions are unknown.
        coverage: share of the catalogue that was shown.
        gini: of the impressions of all items: 0 = all equal, 1 = all of one item.
        parity: of exposure among items of different popularity, see `exposure_parity`; None if the
            clicks of the training log are unknown.
        returns: return visits in each session; None where users do not come back.
        training_steps: user-slate steps of training.
        train_seconds: time of making and training it.
        decision_ms: time of a decision for one user, all users being decided at once.
    """

    policy: str
    seed: int
    reward: list[float]
    clicks: list[int]
    shown: list[int]
    length: list[int]
    diversity: list[float] | None
    novelty: list[float] | None
    coverage: float
    gini: float
    parity: float | None
    returns: list[int] | None
    training_steps: int
    train_seconds: float
    decision_ms: float


def make_policy(
    entry: Entry, world: World, steps: int, seed: int, log: SessionLog | None = None
) -> tuple[Policy, int]:
    """Return the policy, trained if it learns and was not given as trained, and the steps used.

    Args:
        entry: from `agents.finding.find_policies`.
        world: for the training.
        steps: budget of user-slate steps.
        seed: of the policy.
        log: what policies that learn from a log learn from; None = sessions of random slates.
    """
    policy = entry.make(world, seed)
    if entry.is_trained:
        return policy, policy.steps
    if log is not None and isinstance(policy, LogPolicy):
        policy.fit(log)
        return policy, log.n_slates
    return policy, policy.train(world, steps, TRAINING_SEED + seed)


def separate_users(training: World, evaluation: World) -> None:
    """Let every second user of the population train, and only the others evaluate.

    A population with a single user to draw is not divided.

    Args:
        training: draws the first ones from its next reset on.
        evaluation: draws users with other ids, likewise.
    """
    learned, judged = training.initial_sessions, evaluation.initial_sessions
    trains = learned.user % 2 == 1
    if training.population.keep_only(trains):
        met = learned.users.ids[learned.user[trains]]
        evaluation.population.keep_only(~np.isin(judged.users.ids[judged.user], met))


def run_trial(
    entry: Entry,
    new_world: NewWorld,
    users: int,
    seed: int,
    steps: int,
    log: SessionLog | None = None,
    new_training_world: NewWorld | None = None,
) -> Trial:
    """Train a policy and run it for one session of each of `users` other users.

    It learns in `new_training_world`, by default in `new_world` as well.
    """
    training_world, world = (new_training_world or new_world)(TRAINING_USERS), new_world(users)
    separate_users(training_world, world)
    began = time.perf_counter()
    policy, trained = make_policy(entry, training_world, steps, seed, log)
    seconds = time.perf_counter() - began
    run = rollout(world, policy, seed)
    facts: dict[str, Any] = _sums(run) | concentration(run.log)
    return Trial(
        policy=entry.name,
        seed=seed,
        reward=run.reward.tolist(),
        length=run.log.session_length.tolist(),
        training_steps=trained,
        train_seconds=seconds,
        decision_ms=_decision_milliseconds(world, policy),
        diversity=_by_session(run.log, "diversity"),
        novelty=_by_session(run.log, "novelty"),
        parity=exposure_parity(run.log),
        returns=None if world.returns is None else run.returns[run.log.users.ids].tolist(),
        **facts,
    )


def run_stored(
    path: Path,
    source: Any,
    new_world: NewWorld,
    users: int,
    seed: int,
    steps: int,
    log: Path | None,
    new_training_world: NewWorld | None = None,
) -> None:
    """Run a trial, perhaps in a process of its own, and write it to the file `path`."""
    loaded = None if log is None else SessionLog.load(log)
    entry = find_policy(source)
    trial = run_trial(entry, new_world, users, seed, steps, loaded, new_training_world)
    write_json(path, trial.model_dump())


def _sums(run: Rollout) -> dict[str, Any]:
    """Return clicks and shown items of each session."""
    log, start = run.log, run.log.session_start[:-1]
    by_slate = {
        "clicks": log.response.sum(1, dtype=np.int64),
        "shown": (log.slate != EMPTY).sum(1),
    }
    return {name: np.add.reduceat(each, start).tolist() for name, each in by_slate.items()}


def concentration(log: SessionLog) -> dict[str, float]:
    """Return `coverage` and `gini` of the impressions; see `Trial`."""
    n = len(log.catalogue)
    count = np.sort(np.bincount(log.slate[log.slate != EMPTY], minlength=n))
    gini = 2 * (np.arange(1, n + 1) @ count) / (n * count.sum()) - (n + 1) / n
    return {"coverage": float((count > 0).mean()), "gini": float(gini)}


def exposure_parity(log: SessionLog) -> float | None:
    """Return how close the exposure of popularity deciles is to their shares of the catalogue.

    Deciles are of the items by clicks in the training log. An item shown at position s has the
    exposure 1 / log2(1 + s). The parity is 1 - Σ |exposure share - catalogue share| / 2 over
    deciles: 1 = demographic parity of exposure (Singh and Joachims, KDD 2018, there for two
    groups), 0.1 = all exposure is of one decile. None if the clicks are unknown.
    """
    clicked = log.catalogue.attributes.get("clicked")
    if clicked is None:
        return None
    n = len(clicked)
    rank = np.empty(n, np.int64)
    rank[np.argsort(clicked, kind="stable")] = np.arange(n)
    decile = rank * 10 // n
    row, position = np.nonzero(log.slate != EMPTY)
    exposure = np.bincount(
        decile[log.slate[row, position]], weights=1 / np.log2(2 + position), minlength=10
    )
    share = np.bincount(decile, minlength=10) / n
    return float(1 - np.abs(exposure / exposure.sum() - share).sum() / 2)


def _by_session(log: SessionLog, reward: str) -> list[float] | None:
    """Return the mean over the slates of each session of a reward that depends on slates only."""
    context = RewardContext(log.catalogue, lambda slate: slate, torch.device("cpu"), None, False)
    try:
        function, _ = make_reward(reward, context)
    except InputError:  # the catalogue lacks what it needs
        return None
    values = []
    for first in range(0, log.n_slates, _BLOCK):
        slate = torch.from_numpy(log.slate[first : first + _BLOCK].astype(np.int64))
        nothing, zero = torch.zeros(slate.shape), torch.zeros(len(slate))
        answer = Answer(slate, nothing > 0, nothing, zero, zero > 0, zero, nothing, zero)
        values.append(function(answer).double().numpy())
    total = np.add.reduceat(np.concatenate(values), log.session_start[:-1])
    return (total / log.session_length).tolist()


def _decision_milliseconds(world: World, policy: Policy) -> float:
    """Return the time to decide for one user, with the histories at the end of the rollout."""
    observation = HistoryObservation(world)(world)
    policy.reset()
    (seconds,) = time_calls([lambda: policy.act(observation)], rounds=3, device=world.device)
    return 1000 * float(np.median(seconds)) / world.num_users
