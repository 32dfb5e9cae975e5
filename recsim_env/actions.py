"""What an agent may do: how an action becomes a slate."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from recsim_env.world import World
from responders import InputError


def check_actions(
    actions: object, space: spaces.MultiDiscrete | spaces.Discrete, num_envs: int
) -> np.ndarray:
    """Return `actions` as int64 [B, …], or raise `InputError` naming what is wrong with them.

    Args:
        actions: [B, *space.shape] integers.
        space: of a single action.
        num_envs: B.
    """
    array = np.asarray(actions)
    wanted = (num_envs, *(space.shape or ()))
    if array.dtype.kind not in "iu":
        raise InputError(f"the action has dtype {array.dtype}; give integers (item indices)")
    if array.shape != wanted:
        raise InputError(
            f"the action has shape {array.shape}; this environment takes {wanted} "
            "(users × positions)"
        )
    limit = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
    bad = (array < 0) | (array >= limit)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f"user {place[0]}" + (f", position {place[1]}" if len(place) > 1 else "")
        raise InputError(
            f"action {int(array[place])} of {where} is out of range 0 to {int(np.max(limit)) - 1}"
        )
    return array.astype(np.int64, copy=False)


class SlateActions:
    """The action is the slate: S catalogue indices."""

    def __init__(self, world: World) -> None:
        self.space = spaces.MultiDiscrete([world.n_items] * world.n_positions)

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] for actions [B, S]."""
        return action


class CandidateActions:
    """The action picks one of C candidates for each position.

    Args:
        candidates: [S, C] int64 catalogue indices on the world's device, a row per position.
    """

    def __init__(self, candidates: Tensor) -> None:
        self.candidates = candidates
        n_positions, n_candidates = candidates.shape
        self.space = spaces.MultiDiscrete([n_candidates] * n_positions)

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] for choices [B, S]."""
        place = torch.arange(len(self.candidates), device=self.candidates.device)
        return self.candidates[place, action]


def popular_candidates(world: World, n_candidates: int) -> Tensor:
    """Return candidates [S, C]: at each position the most clicked items allowed there.

    Counts are those of the responder's training log; without any, items of low index come first.
    Where fewer than C items are allowed the last one is repeated.
    """
    if not 1 <= n_candidates <= world.n_items:
        raise InputError(f"candidates must be 1 to {world.n_items}, not {n_candidates}")
    clicked = world.catalogue.attributes.get("clicked", np.zeros(world.n_items))
    order = torch.from_numpy(np.argsort(-clicked.astype(float), kind="stable")).to(world.device)
    if world.rules.allowed is None:
        return order[:n_candidates].expand(world.n_positions, -1)
    rows = []
    for allowed in world.rules.allowed:
        row = order[allowed[order]][:n_candidates]
        rows.append(torch.cat([row, row[-1:].expand(n_candidates - len(row))]))
    return torch.stack(rows)
