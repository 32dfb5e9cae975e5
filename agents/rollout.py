"""Runs a policy in a world for one session of every user, recorded as a SessionLog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from agents.transition import Transition
from recsim_env.observations import HistoryObservation
from recsim_env.world import World
from responders import EMPTY, InputError, SessionLog, Users
from responders.log import ragged


class RolloutPolicy(Protocol):
    """What a rollout needs of a policy; see `Policy`."""

    def reset(self) -> None:
        """Forget the users."""

    def act(self, observation: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """Return slates, or slates and propensities."""

    def learn(self, transition: Transition) -> None:
        """Learn from one step."""


@dataclass(frozen=True)
class Rollout:
    """One session of each of B users.

    Args:
        log: the sessions, marked as synthetic, with propensities if the policy gives them.
        reward: [B] float64, summed over each session.
        returns: [B] int64, how often each user left and came back.
    """

    log: SessionLog
    reward: np.ndarray
    returns: np.ndarray


@dataclass(frozen=True)
class _Step:
    """The rows of running sessions: users [n], slates and clicks [n, S], propensities."""

    user: Tensor
    slate: Tensor
    click: Tensor
    propensity: Tensor | None


def rollout(world: World, policy: RolloutPolicy, seed: int, *, learn: bool = False) -> Rollout:
    """Run `policy` for one session of each user of `world`.

    Args:
        world: it is reset with `seed`.
        policy: it is reset too.
        seed: of the users.
        learn: call `policy.learn` after each step.

    Raises:
        InputError: the world has several rewards, or the policy returns anything but slates [B, S]
            of catalogue indices.
    """
    if world.n_objectives is not None:
        raise InputError(
            f"a rollout sums one reward, the world has {world.n_objectives}: give a weight to each"
        )
    observe = HistoryObservation(world)
    world.reset(seed=seed)
    policy.reset()
    users = world.episodes.user.cpu().numpy()
    active = torch.ones(world.num_users, dtype=torch.bool, device=world.device)
    total = torch.zeros(world.num_users, dtype=torch.float64, device=world.device)
    returns = torch.zeros(world.num_users, dtype=torch.int64, device=world.device)
    steps: list[_Step] = []
    observation = observe(world)
    while bool(active.any()):
        slate, propensity = chosen(world, policy, observation)
        outcome = world.step(slate)
        total += outcome.reward.double() * active
        returns += outcome.returned & active
        next_observation = observe(world)
        transition = Transition(
            observation=observation,
            slate=outcome.slate,
            click=outcome.click,
            reward=outcome.reward,
            next_observation=next_observation,
            left=outcome.left,
            truncated=outcome.truncated,
            active=active,
            propensity=propensity,
        )
        steps.append(_recorded(transition))
        if learn:
            policy.learn(transition)
        # The world steps all users until the last one has ended; only active ones are recorded.
        active = active & ~(outcome.left | outcome.truncated)
        observation = next_observation
    log = _as_log(world, policy, users, steps, seed)
    return Rollout(log, total.cpu().numpy(), returns.cpu().numpy())


def joined(logs: Sequence[SessionLog]) -> SessionLog:
    """Return one log of the sessions of several rollouts, in which all users are different."""
    first = np.cumsum([0, *(len(log.users) for log in logs)])
    return SessionLog.concat(
        [
            replace(log, users=replace(log.users, ids=np.arange(start, start + len(log.users))))
            for log, start in zip(logs, first, strict=False)
        ]
    )


def chosen(
    world: World, policy: RolloutPolicy, observation: dict[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Return what the policy chose, [B, S], and its propensities [B, S], if it gives them."""
    chosen = policy.act(observation)
    slate, propensity = chosen if isinstance(chosen, tuple) else (chosen, None)
    name = type(policy).__name__
    if not isinstance(slate, Tensor):
        raise InputError(f"{name}.act returned {type(slate).__name__}, not a tensor of slates")
    try:
        world.check(slate)
    except InputError as error:
        raise InputError(f"{name}.act: {error}") from None
    if propensity is not None and propensity.shape != slate.shape:
        raise InputError(
            f"{name}.act: propensities have shape {tuple(propensity.shape)}, slates have "
            f"{tuple(slate.shape)}"
        )
    return slate, propensity


def _recorded(transition: Transition) -> _Step:
    user, given = transition.active.nonzero().squeeze(1), transition.propensity
    propensity = None if given is None else given[user]
    return _Step(user, transition.slate[user], transition.click[user], propensity)


def _as_log(
    world: World,
    policy: RolloutPolicy,
    population_index: np.ndarray,
    steps: list[_Step],
    seed: int,
) -> SessionLog:
    user_index, slate, click = (
        torch.cat([getattr(step, name) for step in steps]).cpu().numpy()
        for name in ("user", "slate", "click")
    )
    order = np.argsort(user_index, kind="stable")
    length = np.bincount(user_index, minlength=world.num_users)
    step = ragged.place(length)
    shown = (slate[order] != EMPTY).any(1)  # slates with only empty positions are left out
    if not shown.any():
        raise InputError(f"{type(policy).__name__} showed nothing: all its slates are empty")
    length = np.bincount(user_index[order][shown], minlength=world.num_users)
    given = [step.propensity for step in steps if step.propensity is not None]
    propensity = torch.cat(given).cpu().numpy()[order][shown] if len(given) == len(steps) else None
    kept = length > 0
    ids = np.arange(world.num_users)[kept]
    features = world.features.cpu().numpy()[population_index[kept]]
    return SessionLog(
        slate=slate[order][shown],
        response=click[order][shown],
        session_start=ragged.offsets(length[kept]),
        user=np.arange(len(ids)),
        time=step[shown] + 1,
        propensity=propensity,
        catalogue=world.catalogue,
        users=Users(ids, features, world.initial_sessions.users.feature_names),
        card={
            "name": f"{type(policy).__name__} in a simulated world",
            "source": "a policy run with simulated users",
            "licence": "Apache-2.0",
            "synthetic": True,
            "world": world.initial_sessions.card.get("name"),
            "seed": seed,
        },
    )
