"""Runs a policy in a world for one session of every user, recorded as a SessionLog."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.policy import Policy
from recsim_env.observations import HistoryObservation
from recsim_env.world import World
from responders import EMPTY, SessionLog, Users
from responders.log import ragged


@dataclass(frozen=True)
class Rollout:
    """One session of each of B users.

    Args:
        log: the sessions, marked as synthetic.
        reward: [B] float64, summed over each session.
    """

    log: SessionLog
    reward: np.ndarray


def rollout(world: World, policy: Policy, seed: int, *, learn: bool = False) -> Rollout:
    """Run `policy` for one session of each user of `world`.

    Args:
        world: reset with `seed`.
        policy: reset.
        seed: of the users.
        learn: let the policy learn from each step.
    """
    observe = HistoryObservation(world)
    world.reset(seed=seed)
    policy.reset()
    users = world.episodes.user.cpu().numpy()
    active = torch.ones(world.num_users, dtype=torch.bool, device=world.device)
    total = torch.zeros(world.num_users, dtype=torch.float64, device=world.device)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    while bool(active.any()):
        outcome = world.step(policy.act(observe(world)))
        active_users = active.nonzero().squeeze(1)
        slate, click = outcome.slate[active_users], outcome.click[active_users]
        total += outcome.reward.double() * active
        steps.append((active_users.cpu(), slate.cpu(), click.cpu()))
        if learn:
            policy.learn(slate, click)
        # The world steps all users until the last one has ended; only active ones are recorded.
        active = active & ~(outcome.left | outcome.truncated)
    return Rollout(_as_log(world, policy, users, steps, seed), total.cpu().numpy())


def _as_log(
    world: World,
    policy: Policy,
    population_index: np.ndarray,
    steps: list[tuple[Tensor, Tensor, Tensor]],
    seed: int,
) -> SessionLog:
    user_index, slate, click = (torch.cat(column).numpy() for column in zip(*steps, strict=True))
    order = np.argsort(user_index, kind="stable")
    length = np.bincount(user_index, minlength=world.num_users)
    step = ragged.place(length)
    shown = (slate[order] != EMPTY).any(1)  # slates with only empty positions are left out
    length = np.bincount(user_index[order][shown], minlength=world.num_users)
    kept = length > 0
    ids = np.arange(world.num_users)[kept]
    features = world.features.cpu().numpy()[population_index[kept]]
    return SessionLog(
        slate=slate[order][shown],
        response=click[order][shown],
        session_start=ragged.offsets(length[kept]),
        user=np.arange(len(ids)),
        time=step[shown] + 1,
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
