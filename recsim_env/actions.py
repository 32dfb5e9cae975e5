"""What an agent may do: how an action becomes a slate."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from recsim_env.world import World
from responders import EMPTY, InputError

Retrieve = Callable[[World, Tensor | None], Tensor]
"""From a world, and a mask [B] of the users whose candidates are wanted anew (None = all), to
candidates [B, C] int64, a set of C different items for each user."""


class ActionCheck:
    """Refuses batches of actions that are not of a space.

    Args:
        space: of a single action: MultiDiscrete, Discrete or Box.
        num_envs: B.
    """

    def __init__(self, space: spaces.Space, num_envs: int) -> None:
        self._shape = (num_envs, *(space.shape or ()))
        self._continuous = isinstance(space, spaces.Box)
        if isinstance(space, spaces.Box):
            self._low, self._high = space.low, space.high
        else:
            assert isinstance(space, (spaces.MultiDiscrete, spaces.Discrete))
            n = space.n if isinstance(space, spaces.Discrete) else space.nvec
            self._low, self._high = np.array(0), np.array(n) - 1
        self._all_take = self._low.max(), self._high.min()

    def __call__(self, actions: object) -> np.ndarray:
        """Return `actions` [B, …] as int64 (float32 for a Box), or raise `InputError`."""
        try:
            array = np.asarray(actions)
        except ValueError as error:
            raise InputError(f"the action is not an array: {error}") from None
        if array.dtype.kind not in ("iuf" if self._continuous else "iu"):
            give = "numbers" if self._continuous else "integers (item indices)"
            raise InputError(f"the action has dtype {array.dtype}; give {give}")
        if array.shape != self._shape:
            raise InputError(
                f"the action has shape {array.shape}; this environment takes {self._shape} "
                "(users × positions)"
            )
        lowest, highest = self._all_take
        if array.size and not (array.min() >= lowest and array.max() <= highest):  # the usual
            self._check_each(array)
        return array.astype(np.float32 if self._continuous else np.int64, copy=False)

    def _check_each(self, array: np.ndarray) -> None:
        low, high = self._low, self._high
        bad = ~((array >= low) & (array <= high))
        if bad.any():
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            where = f"user {place[0]}" + (f", position {place[1]}" if len(place) > 1 else "")
            raise InputError(
                f"action {array[place]} of {where} is out of range {low.min():g} to {high.max():g}"
            )


class Actions:
    """Turns actions of one space into slates; by default nothing changes from step to step.

    Attributes:
        space: of one user's action.
        offered: [B, C] int64, candidates that change from step to step and are therefore part of
            the observation; None = none.
    """

    space: spaces.Space
    offered: Tensor | None = None
    _retrieve: Retrieve | None = None

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] int64 for actions [B, …]."""
        raise NotImplementedError

    def refresh(self, world: World, mask: Tensor | None = None) -> None:
        """Offer new candidates to the users of `mask` [B] bool (None = all), where they change."""
        if self._retrieve is not None:
            self.offered = retrieved(self._retrieve, world, mask, self.offered)

    def mask(self) -> Tensor | None:
        """Return the valid choices, [n] or [B, n] bool, as MaskablePPO takes them; None = all."""
        return None


class SlateActions(Actions):
    """The action is the slate: S catalogue indices."""

    def __init__(self, world: World) -> None:
        self.space = spaces.MultiDiscrete([world.n_items] * world.n_positions)
        self._allowed = world.rules.allowed

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] for actions [B, S]."""
        return action

    def mask(self) -> Tensor | None:
        """Return [S · N] bool: the items that may stand at each position."""
        return None if self._allowed is None else self._allowed.flatten()


class ArmActions(Actions):
    """The action picks one of A slates (arms), as bandits and DQN do.

    Args:
        arms: [A, S] int64 slates, -1 = empty position.
    """

    def __init__(self, arms: Tensor) -> None:
        self.arms = arms
        self.space = spaces.Discrete(len(arms))

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] for actions [B]."""
        return self.arms[action]


def item_arms(world: World, items: Tensor | None = None) -> Tensor:
    """Return arms [A, S] that show one item each, at the top: `items` [A], or the whole catalogue.

    Raises:
        InputError: the catalogue has rules by position, so that one item is no slate.
    """
    if world.rules.allowed is not None:
        raise InputError("arms of one item are no slates where layers rule: give arms=… yourself")
    shown = torch.arange(world.n_items, device=world.device) if items is None else items
    arms = torch.full((len(shown), world.n_positions), EMPTY, device=world.device)
    arms[:, 0] = shown
    return arms


class CandidateActions(Actions):
    """The action picks one of C candidates for each position; they are the same for everybody.

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

    def mask(self) -> Tensor | None:
        """Return [S · C] bool: later copies of a candidate are not valid."""
        row = self.candidates
        above = torch.ones(2 * row.shape[1:], dtype=torch.bool, device=row.device).tril(-1)
        copies = ((row.unsqueeze(2) == row.unsqueeze(1)) & above).any(2)
        return None if not copies.any() else ~copies.flatten()


class OfferedActions(Actions):
    """The action picks one of the user's own C candidates for each position.

    Args:
        world: of the users.
        retrieve: finds the candidates at every step; they are part of the observation.
    """

    def __init__(self, world: World, retrieve: Retrieve) -> None:
        self._retrieve = retrieve
        self.refresh(world)
        self.space = spaces.MultiDiscrete([self.offered.shape[1]] * world.n_positions)  # type: ignore[union-attr]

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] for choices [B, S]."""
        return self.offered.gather(1, action)  # type: ignore[union-attr]


def retrieved(
    retrieve: Retrieve, world: World, mask: Tensor | None, before: Tensor | None
) -> Tensor:
    """Return the candidates [B, C] of all users, those outside `mask` [B] as `before`.

    Raises:
        InputError: what was retrieved first is not [B, C] int64 in the catalogue.
    """
    found = retrieve(world, mask)
    if before is None:
        if not isinstance(found, Tensor):
            raise InputError(f"candidates must be a tensor [B, C], not {type(found).__name__}")
        if found.ndim != 2 or len(found) != world.num_users or found.dtype != torch.int64:
            raise InputError(
                f"candidates are {tuple(found.shape)} {found.dtype}, not [{world.num_users}, C] "
                "torch.int64"
            )
        if int(found.min()) < 0 or int(found.max()) >= world.n_items:
            raise InputError(f"candidates must be items 0 to {world.n_items - 1}")
        return found
    return found if mask is None else torch.where(mask.unsqueeze(1), found, before)


class RandomCandidates:
    """Draws C different items for each user and step, from the users' streams.

    Items are (a + i · b) mod N for a random a, and a random b without a common factor with N.

    Args:
        world: of the users.
        n_candidates: C.
    """

    def __init__(self, world: World, n_candidates: int) -> None:
        n = world.n_items
        _check_number(world, n_candidates)
        spread = np.unique(np.linspace(1, max(n - 1, 1), 4096).astype(int)).tolist()
        coprime = [b for b in spread if gcd(b, n) == 1]
        self._strides = torch.tensor(coprime, device=world.device)
        self._index = torch.arange(n_candidates, device=world.device)

    def __call__(self, world: World, mask: Tensor | None) -> Tensor:
        """Return candidates [B, C]; see `Retrieve`."""
        uniform = world.streams.uniform(2, mask)
        first = (uniform[:, 0:1] * world.n_items).long()
        stride = self._strides[(uniform[:, 1:] * len(self._strides)).long()]
        return (first + self._index * stride) % world.n_items


def _check_number(world: World, n_candidates: object) -> None:
    if isinstance(n_candidates, bool) or n_candidates not in range(1, world.n_items + 1):
        raise InputError(f"candidates must be 1 to {world.n_items}, not {n_candidates!r}")


def given_candidates(world: World, items: object) -> Tensor:
    """Return candidates [S, C]: the catalogue indices `items` [C] at every position.

    Raises:
        InputError: they are not different items of the catalogue.
    """
    array = np.asarray(items)
    fits = array.ndim == 1 and array.dtype.kind in "iu" and len(array)
    if not fits or array.min() < 0 or array.max() >= world.n_items:
        raise InputError(f"candidates must be items 0 to {world.n_items - 1}, not {items!r}")
    if len(np.unique(array)) < len(array):
        raise InputError("an item is given twice among the candidates")
    row = torch.from_numpy(array.astype(np.int64)).to(world.device)
    return row.expand(world.n_positions, -1)


def popular_candidates(world: World, n_candidates: int) -> Tensor:
    """Return candidates [S, C]: at each position the most clicked items allowed there.

    Counts are those of the responder's training log; without any, items of low index come first.
    Where fewer than C items are allowed the last one is repeated.
    """
    _check_number(world, n_candidates)
    clicked = world.catalogue.attributes.get("clicked", np.zeros(world.n_items))
    order = torch.from_numpy(np.argsort(-clicked.astype(float), kind="stable")).to(world.device)
    if world.rules.allowed is None:
        return order[:n_candidates].expand(world.n_positions, -1)
    rows = []
    for allowed in world.rules.allowed:
        row = order[allowed[order]][:n_candidates]
        rows.append(torch.cat([row, row[-1:].expand(n_candidates - len(row))]))
    return torch.stack(rows)
