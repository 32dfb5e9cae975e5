"""A policy run in a world: every user from the first slate to the last, as a SessionLog."""

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
        log: the sessions; its card says that they are simulated.
        reward: [B] float64, sum over the session.
    """

    log: SessionLog
    reward: np.ndarray


def rollout(world: World, policy: Policy, seed: int, *, learn: bool = False) -> Rollout:
    """Run `policy` for one session of each user of `world`.

    Args:
        world: it is reset with `seed`.
        policy: it is reset.
        seed: of the users.
        learn: let the policy learn from each step.
    """
    observe = HistoryObservation(world)
    world.reset(seed=seed)
    policy.reset()
    users = world.episodes.user.cpu().numpy()
    active = torch.ones(world.num_users, dtype=torch.bool, device=world.device)
    total = torch.zeros(world.num_users, dtype=torch.float64, device=world.device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    while bool(active.any()):
        outcome = world.step(policy.act(observe(world)))
        rows = active.nonzero().squeeze(1)
        slate, click = outcome.slate[rows], outcome.click[rows]
        total += outcome.reward.double() * active
        parts.append((rows.cpu(), slate.cpu(), click.cpu()))
        if learn:
            policy.learn(slate, click)
        active = active & ~(outcome.left | outcome.truncated)
    return Rollout(_as_log(world, policy, users, parts, seed), total.cpu().numpy())


def _as_log(
    world: World,
    policy: Policy,
    users: np.ndarray,
    parts: list[tuple[Tensor, Tensor, Tensor]],
    seed: int,
) -> SessionLog:
    owner, slate, click = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    order = np.argsort(owner, kind="stable")
    length = np.bincount(owner, minlength=world.num_users)
    step = ragged.place(length)
    shown = (slate[order] != EMPTY).any(1)  # a slate of nothing but broken choices shows nothing
    length = np.bincount(owner[order][shown], minlength=world.num_users)
    kept = length > 0
    ids = np.arange(world.num_users)[kept]
    features = world.features.cpu().numpy()[users[kept]]
    return SessionLog(
        slate=slate[order][shown],
        response=click[order][shown],
        session_start=ragged.offsets(length[kept]),
        user=np.arange(len(ids)),
        time=step[shown] + 1,
        catalogue=world.catalogue,
        users=Users(ids, features),
        card={
            "name": f"{type(policy).__name__} in a simulated world",
            "source": "a policy run among simulated users",
            "licence": "Apache-2.0",
            "synthetic": True,
            "world": world.initial_sessions.card.get("name"),
            "seed": seed,
        },
    )
