"""Observations of B users."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_leaves

from recsim_env.world import World
from responders import InputError
from responders.models.state import take_rows

Observation = dict[str, Tensor] | Tensor
"""Tensors with B first."""

_SIGNATURE = 16


class Encoder(Protocol):
    """Returns observations [B, …] of a world, in tensors that are not modified afterwards."""

    @property
    def space(self) -> spaces.Space:
        """The space of one user's observation."""
        ...

    def __call__(self, world: World) -> Observation:
        """Return the observation of all users."""
        ...


class HistoryObservation:
    """A dict of the last H slates and their clicks, the step, and the user's features.

    `item` [H · S] int64: catalogue indices, oldest slate first, -1 = nothing; entry j was at
    position j % S of the slate shown H - j // S slates ago. `click` [H · S] int8: in the same
    order. `step` [1] int64. `user` [F] float32, absent if the log has no user features. If users
    come back: `visit` [1] int64, from 0, and `gap` [1] float32, seconds since the previous visit.
    """

    def __init__(self, world: World) -> None:
        shape = (world.history * world.n_positions,)
        self.space = spaces.Dict(
            {
                "item": spaces.Box(-1, world.n_items - 1, shape, np.int64),
                "click": spaces.Box(0, 1, shape, np.int8),
                "step": spaces.Box(0, world.horizon, (1,), np.int64),
            }
        )
        if world.features.shape[1]:
            self.space["user"] = spaces.Box(*bounds(world.features), dtype=np.float32)
        if world.returns is not None:
            self.space["visit"] = spaces.Box(0, world.horizon, (1,), np.int64)
            self.space["gap"] = spaces.Box(0, world.returns.window, (1,), np.float32)

    def __call__(self, world: World) -> dict[str, Tensor]:
        episodes = world.episodes
        b = len(episodes.step)
        observation = {
            "item": episodes.slates.to(torch.int64).view(b, -1),
            "click": episodes.clicks.to(torch.int8).view(b, -1),
            "step": episodes.step.unsqueeze(1).clone(),
        }
        if "user" in self.space.spaces:
            observation["user"] = world.features.index_select(0, episodes.user)
        if "visit" in self.space.spaces:
            observation["visit"] = episodes.visit.unsqueeze(1).clone()
            observation["gap"] = episodes.gap.unsqueeze(1).clone()
        return observation


class FlatObservation:
    """A float32 vector of the user's features, what was shown and clicked, and the progress.

    The concatenation, computed from `HistoryObservation`, of: user features [F], standardised; mean
    features of the items clicked in the history [K]; mean features of the items shown [K]; click
    rate by position over the history [S]; share of the horizon passed; share of the slates of the
    history since the last click; and, if users come back, the visits so far and the gap before this
    one as shares of the horizon and the window. Item features are the catalogue's, standardised; a
    catalogue without features gets 16 fixed random numbers per item.
    """

    def __init__(self, world: World) -> None:
        features = world.catalogue.features
        if features.shape[1]:
            features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
        else:
            rng = np.random.default_rng(0)
            features = rng.normal(size=(world.n_items, _SIGNATURE)) / np.sqrt(_SIGNATURE)
        table = torch.tensor(features, dtype=torch.float32, device=world.device)
        self._items = torch.nn.functional.pad(table, (0, 0, 1, 0))  # row 0: the empty position
        self._horizon, self._n_positions = world.horizon, world.n_positions
        self._history = HistoryObservation(world)
        self._centre = world.features.mean(0)
        self._scale = (world.features - self._centre).square().mean(0).sqrt().clamp(min=1e-6)
        self._window = None if world.returns is None else world.returns.window
        n_rates = world.n_positions + 2 + (0 if self._window is None else 2)
        rates = np.zeros(n_rates), np.ones(n_rates)
        parts = [bounds(self._standardised(world.features)), *2 * [bounds(self._items)], rates]
        low, high = (np.concatenate(side).astype(np.float32) for side in zip(*parts, strict=True))
        self.space = spaces.Box(low, high, dtype=np.float32)

    def _standardised(self, user: Tensor) -> Tensor:
        return (user - self._centre) / self._scale

    def __call__(self, world: World) -> Tensor:
        return self.encode(self._history(world))

    @torch.no_grad()
    def encode(self, history: dict[str, Tensor]) -> Tensor:
        """Return the vector [B, size] of a batched `HistoryObservation`."""
        slates = (len(history["item"]), -1, self._n_positions)
        item, click = history["item"], history["click"].float()
        shown = (item >= 0).float()
        weights = torch.stack([click, shown], 1)
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1)
        means = torch.bmm(weights, self._items[item + 1]).flatten(1)
        click, shown = click.view(slates), shown.view(slates)
        by_position = click.sum(1) / shown.sum(1).clamp(min=1)
        clicked_since = click.any(2).flip(1).cumsum(1) > 0
        without_click = (~clicked_since).float().mean(1, keepdim=True)
        parts = [means, by_position, history["step"] / self._horizon, without_click]
        if self._window is not None:
            parts += [history["visit"] / self._horizon, history["gap"] / self._window]
        if "user" in history:
            parts.insert(0, self._standardised(history["user"]))
        return torch.cat(parts, 1)


class StateObservation:
    """The responder's state, [total] float32, which is not observable for real users.

    It serves as an upper bound on what memory can contribute. The tensors of the state are
    concatenated in the order of the responder's `start`.

    Raises:
        InputError: the responder has no state, or one that grows with the session.
    """

    def __init__(self, world: World) -> None:
        memory = take_rows(world.episodes.memory, torch.arange(1, device=world.device))
        before = tree_leaves(memory)
        if not before:
            raise InputError(f"{type(world.responder).__name__} remembers nothing: it has no state")
        slate = torch.zeros(1, world.n_positions, dtype=torch.int64, device=world.device)
        with torch.no_grad():
            after = tree_leaves(world.responder.observe(memory, slate, slate == 0))
        if any(a.shape != b.shape for a, b in zip(before, after, strict=True)):
            raise InputError(
                f"the state of {type(world.responder).__name__} grows with the session, so it "
                "has no fixed size: use a recurrent responder, or observe='history'"
            )
        size = sum(value.numel() for value in before)
        largest = np.finfo(np.float32).max  # bounds are unknown; Gymnasium's checker warns of ∞
        self.space = spaces.Box(-largest, largest, (size,), np.float32)

    def __call__(self, world: World) -> Tensor:
        leaves = tree_leaves(world.episodes.memory)
        return torch.cat([value.float().view(world.num_users, -1) for value in leaves], 1)


def bounds(table: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest value [F] of each column of `table` [n, F].

    The bounds of a constant column are widened by 1: Gymnasium's spaces need low < high.
    """
    low, high = table.amin(0).cpu().numpy(), table.amax(0).cpu().numpy()
    is_constant = low == high
    return low - is_constant, high + is_constant
