"""Continuous actions: scores of items, and a proto-item whose nearest neighbours are shown."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from recsim_env.actions import Actions, Retrieve
from recsim_env.world import World
from responders import InputError

_TILE = 1 << 24  # similarities computed at a time: 64 MB


class ScoreActions(Actions):
    """The action scores C candidates, or all N items; the best S are shown, best first.

    Args:
        world: of the users.
        candidates: [C] int64 the same for everybody; or what retrieves them for each user; None =
            the whole catalogue.

    Raises:
        InputError: candidates where layers rule (score the whole catalogue there), or fewer than S.
    """

    def __init__(self, world: World, candidates: Tensor | Retrieve | None = None) -> None:
        self.rules, self.n_positions = world.rules, world.n_positions
        self._fixed: Tensor | None = None
        if candidates is not None and world.rules.allowed is not None:
            raise InputError("scores of candidates do not know layers: score the whole catalogue")
        size = world.n_items
        if isinstance(candidates, Tensor):
            self._fixed, size = candidates, len(candidates)
        elif candidates is not None:
            self._retrieve = candidates
            self.refresh(world)
            size = self.offered.shape[1]  # type: ignore[union-attr]
        if size < self.n_positions:
            raise InputError(f"{size} candidates do not fill {self.n_positions} positions")
        self.space = spaces.Box(-1.0, 1.0, (size,), np.float32)

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] for scores [B, C]."""
        if self._fixed is None and self.offered is None:
            return self.rules.choose(action)
        best = action.topk(self.n_positions, 1).indices
        if self.offered is not None:
            return self.offered.gather(1, best)
        return self._fixed[best]  # type: ignore[index]


class ProtoActions(Actions):
    """The action is a point in item space; the S items nearest to it by cosine are shown.

    The exact version of Wolpertinger's lookup (Dulac-Arnold et al., 2015); `neighbours` gives more
    than S of them to an agent that wants to choose among them by its critic.

    Args:
        world: of the users.
        vectors: [N, d] of the items, by default `item_vectors(world)`.
    """

    def __init__(self, world: World, vectors: Tensor | None = None) -> None:
        vectors = item_vectors(world) if vectors is None else vectors
        self.vectors = F.normalize(vectors.float(), dim=1)
        self.rules, self.n_positions = world.rules, world.n_positions
        self.space = spaces.Box(-1.0, 1.0, (vectors.shape[1],), np.float32)

    def neighbours(self, action: Tensor, k: int) -> Tensor:
        """Return the k nearest items [B, k], the nearest first, for points [B, d]."""
        return nearest(action, self.vectors, k)

    def slate(self, action: Tensor) -> Tensor:
        """Return slates [B, S] for points [B, d]; where rules hold, the nearest they allow."""
        if self.rules.allowed is not None or self.rules.special is not None:
            return self.rules.choose(action @ self.vectors.t())
        return self.neighbours(action, self.n_positions)


def item_vectors(world: World, last: int | None = None) -> Tensor:
    """Return what tells items apart, [N, d]: their features, or the responder's item vectors.

    Args:
        world: of the users.
        last: take the last so many features alone, as RL4RS does.

    Raises:
        InputError: there are neither.
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
        return items(items.lookup[1 : world.n_items + 1]).clone()


def nearest(point: Tensor, vectors: Tensor, k: int) -> Tensor:
    """Return the k rows of `vectors` with the greatest products, [B, k] int64, greatest first.

    Exact, a tile of the catalogue at a time, so that B × N numbers are never there at once.

    Args:
        point: [B, d].
        vectors: [N, d].
        k: at most N.
    """
    if not 1 <= k <= len(vectors):
        raise InputError(f"k must be 1 to {len(vectors)} neighbours, not {k}")
    step = max(_TILE // max(len(point), 1), k)
    best = point.new_full((len(point), k), -torch.inf)
    found = torch.zeros(best.shape, dtype=torch.int64, device=point.device)
    for first in range(0, len(vectors), step):
        similarity = point @ vectors[first : first + step].t()
        top = similarity.topk(min(k, similarity.shape[1]), 1)
        values = torch.cat([best, top.values], 1)
        indices = torch.cat([found, top.indices + first], 1)
        best, place = values.topk(k, 1)
        found = indices.gather(1, place)
    return found
