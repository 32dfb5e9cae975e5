"""The state of a responder's users, tracked from what a policy can see of them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from responders.models.state import State, put_rows


class Trackable(Protocol):
    """What has a state to track: a `Responder`, or an object that adds to one's state."""

    def start(self, user: Tensor) -> State:
        """Return the state of new users with features `user` [B, F]."""

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after users saw `slate` [B, S] and answered `click` [B, S]."""


class StateTracker:
    """Follows the users of a rollout through a responder's `observe`.

    Args:
        responder: whose state is followed.
        n_positions: S.
    """

    def __init__(self, responder: Trackable, n_positions: int) -> None:
        self.responder, self.n_positions = responder, n_positions
        self.reset()

    def reset(self) -> None:
        """Forget the users."""
        self._state: State | None = None
        self._first: State | None = None  # at the start of the episode
        self._visit: Tensor | None = None

    def state(self, observation: dict[str, Tensor]) -> State:
        """Return the state [B] before the next slate, for a batched `HistoryObservation`.

        Call it once for each step.
        """
        item, click = (
            observation[name].view(
                -1, observation[name].shape[1] // self.n_positions, self.n_positions
            )
            for name in ("item", "click")
        )
        new, state = observation["step"][:, 0] == 0, self._state
        if state is not None:
            state = self.responder.observe(state, item[:, -1], click[:, -1])
        if state is None or bool(new.any()):  # new users start with the warm start's history
            no_features = torch.zeros(len(item), 0, device=item.device)
            from_history = self.responder.start(observation.get("user", no_features))
            for age in range(item.shape[1]):
                from_history = self.responder.observe(from_history, item[:, age], click[:, age])
            first = self._first
            self._first = from_history if first is None else put_rows(first, new, from_history)
            state = from_history if state is None else put_rows(state, new, from_history)
        if "visit" in observation:  # a user who comes back starts as at the first visit
            visit = observation["visit"][:, 0]
            came_back = torch.zeros_like(new) if self._visit is None else visit != self._visit
            assert self._first is not None
            state = put_rows(state, came_back & ~new, self._first)
            self._visit = visit
        self._state = state
        return state
