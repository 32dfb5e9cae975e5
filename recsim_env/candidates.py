"""Candidates: the catalogue, a part of it, or a set of items for each user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import gcd

import numpy as np
import torch
from torch import Tensor

from recsim_env.world import World
from responders import Catalogue, InputError
from responders.errors import near_matches

Retrieve = Callable[[World, Tensor | None], Tensor]
"""Function of a world and a mask [B] of the users who need new candidates (None = all); returns
candidates [B, C] int64, C different items for each user."""


class Candidates:
    """The C items that an agent chooses from; a choice is a number from 0 to C - 1.

    Args:
        world: of the users.
        table: [S, C] int64, the candidates at each position, the same for all users; None = the
            whole catalogue.
        retrieve: called for new candidates of each user at every step instead.

    Attributes:
        n: C.
        retrieved: [B, C] int64, the candidates of each user, which are part of the observation;
            None if they do not change.

    Raises:
        InputError: the catalogue has layers, or `retrieve` does not return [B, C] items.
    """

    def __init__(
        self, world: World, table: Tensor | None = None, retrieve: Retrieve | None = None
    ) -> None:
        self.world, self.table, self.retrieve = world, table, retrieve
        self.retrieved: Tensor | None = None
        if retrieve is not None:
            if world.rules.allowed is not None:
                raise InputError("retrieved candidates ignore layers: leave out retrieval")
            self.retrieved = _checked(world, retrieve(world, None))
        chosen = self.retrieved if self.retrieved is not None else table
        self.n = world.n_items if chosen is None else chosen.shape[1]

    @property
    def is_catalogue(self) -> bool:
        """Whether all items of the catalogue are candidates."""
        return self.table is None and self.retrieve is None

    def refresh(self, mask: Tensor | None = None) -> None:
        """Retrieve new candidates for the users of `mask` [B] bool (None = all)."""
        if self.retrieve is not None:
            new = self.retrieve(self.world, mask)
            assert self.retrieved is not None
            if mask is not None:
                new = torch.where(mask.unsqueeze(1), new, self.retrieved)
            self.retrieved = new

    def items(self, choice: Tensor) -> Tensor:
        """Return the items [B, S] of choices [B, S], one for each position."""
        if self.retrieved is not None:
            return self.retrieved.gather(1, choice)
        if self.table is None:
            return choice
        position = torch.arange(choice.shape[1], device=choice.device)
        return self.table[position, choice]

    def mask(self) -> Tensor | None:
        """Return the valid choices at each position, [S · C] bool; None = all.

        Items that are not allowed at a position, and repeated candidates, are not valid.
        """
        if self.retrieved is not None:
            return None
        if self.table is None:
            allowed = self.world.rules.allowed
            return None if allowed is None else allowed.flatten()
        return self._distinct

    @cached_property
    def _distinct(self) -> Tensor | None:
        """Whether each entry of the table [S · C] is no copy of one before it; None = all."""
        assert self.table is not None
        above = torch.ones(self.n, self.n, dtype=torch.bool, device=self.table.device).tril(-1)
        same = self.table.unsqueeze(2) == self.table.unsqueeze(1)
        copies = (same & above).any(2)
        return None if not copies.any() else ~copies.flatten()


def make_candidates(
    world: World, candidates: object = None, retrieval: str | Retrieve = "popular"
) -> Candidates:
    """Return the candidates for `gym.make(…, candidates=…, retrieval=…)`.

    Args:
        world: of the users.
        candidates: their number C, or C catalogue indices; None = the whole catalogue.
        retrieval: which C items: the most clicked (`popular`), `random` ones at every step, or a
            custom function, which also decides on C.

    Raises:
        InputError: an unknown name, or arguments that contradict each other.
    """
    if callable(retrieval):
        if candidates is not None:
            raise InputError("a retrieval function decides how many candidates there are")
        return Candidates(world, retrieve=retrieval)
    if retrieval not in ("popular", "random"):
        near = near_matches(str(retrieval), ("popular", "random"))
        raise InputError(f"retrieval {retrieval!r} is unknown; {near}")
    if retrieval == "random":
        if not isinstance(candidates, (int, np.integer)):
            raise InputError("random candidates need their number: candidates=…")
        return Candidates(world, retrieve=RandomCandidates(world, int(candidates)))
    if candidates is None:
        return Candidates(world)
    if isinstance(candidates, Sequence | np.ndarray | Tensor):
        return Candidates(world, given_table(world, candidates))
    return Candidates(world, popular_table(world, candidates))


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
        uniform = world.streams.uniform(2, mask)
        first = (uniform[:, 0:1] * world.n_items).long()
        stride = self._strides[(uniform[:, 1:] * len(self._strides)).long()]
        return (first + self._index * stride) % world.n_items


def given_table(world: World, items: object) -> Tensor:
    """Return candidates [S, C]: the catalogue indices `items` [C] at every position.

    Raises:
        InputError: they are not distinct items of the catalogue.
    """
    array = np.asarray(items)
    is_list = array.ndim == 1 and array.dtype.kind in "iu" and len(array)
    if not is_list or array.min() < 0 or array.max() >= world.n_items:
        raise InputError(f"candidates must be items 0 to {world.n_items - 1}, not {items!r}")
    if len(np.unique(array)) < len(array):
        raise InputError("an item occurs twice among the candidates")
    indices = torch.from_numpy(array.astype(np.int64)).to(world.device)
    return indices.expand(world.n_positions, -1)


def popular_table(world: World, n_candidates: object) -> Tensor:
    """Return candidates [S, C]: at each position the most clicked items allowed there.

    Clicks are counted in the responder's training log; without counts, items of low index come
    first. If fewer than C items are allowed, the last one is repeated.
    """
    n = _check_number(world, n_candidates)
    order = most_clicked(world.catalogue).to(world.device)
    if world.rules.allowed is None:
        return order[:n].expand(world.n_positions, -1)
    table = []
    for allowed in world.rules.allowed:
        items = order[allowed[order]][:n]
        table.append(torch.cat([items, items[-1:].expand(n - len(items))]))
    return torch.stack(table)


def most_clicked(catalogue: Catalogue) -> Tensor:
    """Return all items [N], most clicked in the log first; in catalogue order without counts."""
    clicked = catalogue.attributes.get("clicked", np.zeros(len(catalogue)))
    return torch.from_numpy(np.argsort(-clicked.astype(float), kind="stable"))


def _check_number(world: World, n_candidates: object) -> int:
    if isinstance(n_candidates, bool) or n_candidates not in range(1, world.n_items + 1):
        raise InputError(f"candidates must be 1 to {world.n_items}, not {n_candidates!r}")
    return int(n_candidates)  # type: ignore[call-overload]


def _checked(world: World, items: object) -> Tensor:
    if not isinstance(items, Tensor):
        raise InputError(f"candidates must be a tensor [B, C], not {type(items).__name__}")
    if items.ndim != 2 or len(items) != world.num_users or items.dtype != torch.int64:
        raise InputError(
            f"candidates are {tuple(items.shape)} {items.dtype}, not [{world.num_users}, C] "
            "torch.int64"
        )
    if int(items.min()) < 0 or int(items.max()) >= world.n_items:
        raise InputError(f"candidates must be items 0 to {world.n_items - 1}")
    return items
