"""Action spaces: how an action becomes a slate."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from recsim_env.candidates import Candidates
from recsim_env.world import World
from responders import EMPTY, InputError

_TILE = 1 << 24  # similarities computed at a time: 64 MB


class Actions:
    """Turns actions of one space into slates.

    Args:
        world: of the users.
        candidates: the items that the agent chooses from.
        space: of one user's action.
    """

    def __init__(self, world: World, candidates: Candidates, space: spaces.Space) -> None:
        self.rules, self.n_positions = world.rules, world.n_positions
        self.candidates, self.space = candidates, space

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] int64 for actions [B, …]."""
        raise NotImplementedError

    def mask(self) -> Tensor | None:
        """Return the valid choices, [n] or [B, n] bool, as for MaskablePPO; None = all."""
        return None


class SlateActions(Actions):
    """The action is the slate: S candidates.

    Args:
        world: of the users.
        candidates: by default the whole catalogue.
    """

    def __init__(self, world: World, candidates: Candidates | None = None) -> None:
        candidates = candidates or Candidates(world)
        super().__init__(
            world, candidates, spaces.MultiDiscrete([candidates.n] * world.n_positions)
        )

    def slate(self, action: Tensor) -> Tensor:
        return self.candidates.items(action)

    def mask(self) -> Tensor | None:
        """Return the candidates allowed at each position, [S · C] bool; None = all."""
        return self.candidates.mask()


class ArmActions(Actions):
    """The action is one of A slates (arms), as in bandits and DQN.

    Args:
        world: of the users.
        candidates: each is an arm that shows only this item, at the top; by default the whole
            catalogue.
        arms: [A, S] int64, custom slates instead, -1 = empty position.

    Raises:
        InputError: candidates are retrieved, or the catalogue has layers.
    """

    def __init__(
        self, world: World, candidates: Candidates | None = None, arms: Tensor | None = None
    ) -> None:
        candidates = candidates or Candidates(world)
        self.arms = single_item_arms(world, candidates) if arms is None else arms
        super().__init__(world, candidates, spaces.Discrete(len(self.arms)))

    def slate(self, action: Tensor) -> Tensor:
        return self.arms[action]


def single_item_arms(world: World, candidates: Candidates) -> Tensor:
    """Return arms [A, S] that show one candidate each, at the top.

    Raises:
        InputError: candidates are retrieved, or the catalogue has layers.
    """
    if candidates.retrieved is not None:
        raise InputError("arms are fixed: use retrieved candidates with action slate or scores")
    if world.rules.allowed is not None:
        raise InputError("an arm of one item is not a valid slate if the catalogue has layers")
    table = candidates.table
    items = torch.arange(world.n_items, device=world.device) if table is None else table[0]
    arms = torch.full((len(items), world.n_positions), EMPTY, device=world.device)
    arms[:, 0] = items
    return arms


class ScoreActions(Actions):
    """The action scores the candidates; the best S are shown, best first.

    Args:
        world: of the users.
        candidates: by default the whole catalogue.

    Raises:
        InputError: candidates of a catalogue with layers, or fewer than S candidates.
    """

    def __init__(self, world: World, candidates: Candidates | None = None) -> None:
        candidates = candidates or Candidates(world)
        if not candidates.is_catalogue and world.rules.allowed is not None:
            raise InputError("scores of candidates ignore layers: score the whole catalogue")
        if candidates.n < world.n_positions:
            raise InputError(f"{candidates.n} candidates do not fill {world.n_positions} positions")
        super().__init__(world, candidates, spaces.Box(-1.0, 1.0, (candidates.n,), np.float32))

    def slate(self, action: Tensor) -> Tensor:
        if self.candidates.is_catalogue:
            return self.rules.choose(action)
        return self.candidates.items(action.topk(self.n_positions, 1).indices)


class ProtoActions(Actions):
    """The action is a point in item space; the S items nearest to it by cosine are shown.

    The exact version of Wolpertinger's lookup (Dulac-Arnold et al., 2015). `neighbours` can return
    more than S items, for an agent that chooses among them with its critic.

    Args:
        world: of the users.
        candidates: must be the whole catalogue.
        vectors: [N, d] of the items, by default `item_vectors(world)`.

    Raises:
        InputError: there are candidates, or items have no vectors.
    """

    def __init__(
        self, world: World, candidates: Candidates | None = None, vectors: Tensor | None = None
    ) -> None:
        candidates = candidates or Candidates(world)
        if not candidates.is_catalogue:
            raise InputError(
                "a proto-item is compared with the whole catalogue: leave out candidates"
            )
        vectors = item_vectors(world) if vectors is None else vectors
        self.vectors = F.normalize(vectors.float(), dim=1)
        super().__init__(world, candidates, spaces.Box(-1.0, 1.0, (vectors.shape[1],), np.float32))

    def neighbours(self, action: Tensor, k: int) -> Tensor:
        """Return the k nearest items [B, k], the nearest first, for points [B, d]."""
        return nearest(action, self.vectors, k)

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] for points [B, d]; with rules, the nearest items they allow."""
        if self.rules.exist:
            return self.rules.choose(action @ self.vectors.t())
        return self.neighbours(action, self.n_positions)


def item_vectors(world: World, last: int | None = None) -> Tensor:
    """Return vectors [N, d] of the items: their features or, if there are none, learned vectors.

    Args:
        world: of the users.
        last: number of features to take, from the end, as in RL4RS; None = all.

    Raises:
        InputError: there are no features and no learned vectors.
    """
    features = torch.from_numpy(world.catalogue.features.copy()).to(world.device)
    if features.shape[1]:
        return features if last is None else features[:, -last:]
    items = getattr(world.responder, "items", None)
    if items is None or items.size < 2:
        raise InputError(
            "proto-items need item features, or a responder that learned item vectors (a neural "
            "one, or mf)"
        )
    with torch.no_grad():
        index = items.index(torch.arange(world.n_items, device=world.device), replace_some=False)
        return items.vector(index).clone()


def nearest(point: Tensor, vectors: Tensor, k: int) -> Tensor:
    """Return the k rows of `vectors` with the greatest products, [B, k] int64, greatest first.

    Exact; computed in tiles of the catalogue, so that B × N numbers never exist at once.

    Args:
        point: [B, d].
        vectors: [N, d].
        k: at most N.
    """
    if not 1 <= k <= len(vectors):
        raise InputError(f"k must be 1 to {len(vectors)} neighbours, not {k}")
    step = max(_TILE // max(len(point), 1), k)
    best_value = point.new_full((len(point), k), -torch.inf)
    best_index = torch.zeros(best_value.shape, dtype=torch.int64, device=point.device)
    for first in range(0, len(vectors), step):
        similarity = point @ vectors[first : first + step].t()
        top = similarity.topk(min(k, similarity.shape[1]), 1)
        values = torch.cat([best_value, top.values], 1)
        indices = torch.cat([best_index, top.indices + first], 1)
        best_value, order = values.topk(k, 1)
        best_index = indices.gather(1, order)
    return best_index


class ActionCheck:
    """Raises `InputError` for batches of actions outside a space.

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
        self._common = self._low.max(), self._high.min()

    def __call__(self, actions: object) -> np.ndarray:
        """Return `actions` [B, …] as int64 (float32 for a Box), or raise `InputError`."""
        try:
            array = np.asarray(actions)
        except ValueError as error:
            raise InputError(f"the action is not an array: {error}") from None
        if array.dtype.kind not in ("iuf" if self._continuous else "iu"):
            expected = "numbers" if self._continuous else "integers (item indices)"
            raise InputError(f"the action has dtype {array.dtype}; give {expected}")
        if array.shape != self._shape:
            raise InputError(
                f"the action has shape {array.shape}; this environment takes {self._shape} "
                "(users × positions)"
            )
        lowest, highest = self._common
        # Bounds that hold for every position are cheap to check and suffice for most batches.
        if array.size and not (array.min() >= lowest and array.max() <= highest):
            self._check_each(array)
        return array.astype(np.float32 if self._continuous else np.int64, copy=False)

    def _check_each(self, array: np.ndarray) -> None:
        low, high = self._low, self._high
        bad = ~((array >= low) & (array <= high))
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            where = f"user {index[0]}" + (f", position {index[1]}" if len(index) > 1 else "")
            raise InputError(
                f"action {array[index]} of {where} is out of range {low.min():g} to {high.max():g}"
            )
