"""Recurrent responders (arXiv 2409.20055): a GRU walks down the positions.

SlateGRU starts anew for each slate from the user's vector; SessionGRU walks on from slate to slate;
HierarchicalGRU hands the mean of a slate's states to the next slate.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from responders.errors import InputError, near_matches
from responders.log.batch import SessionBatch
from responders.models.base import LogShape
from responders.models.neural import Evaluation
from responders.models.parts.click_gru import ClickGRU, Feed, Walk
from responders.models.parts.packing import before, last_click, last_clicked
from responders.models.parts.users import UserEncoder, UserFeatures
from responders.models.state import State

ReadoutKind = Literal["teacher", "threshold", "soft", "sample", "differentiable_sample"]

_FEEDS: dict[str, Feed] = {
    "teacher": "click",
    "threshold": "threshold",
    "soft": "soft",
    "sample": "click",
    "differentiable_sample": "relaxed",
}


class SlateGRU(ClickGRU):
    """A GRU down the positions of one slate; it starts from the mean of the items clicked so far.

    `readout` says which click is fed on to the next position while training: the logged one
    (`teacher`), or the model's own, so that it meets in training what it meets when it simulates:
    `threshold` (probability over one half), `soft` (the probability), `sample` (a draw without
    gradient), `differentiable_sample` (a binary-concrete draw, temperature 0.3). With `threshold`
    and `soft` the model never reads a click of the slate, trained or simulating; with the draws it
    is trained on clicks that it drew itself, and simulates on those too.

    Args:
        shape: sizes of the log.
        item_features: as `NeuralResponder`.
        readout: see above.
        options: as `NeuralResponder`.
    """

    def __init__(
        self,
        shape: LogShape,
        item_features: Tensor | None = None,
        *,
        readout: str = "teacher",
        **options: Any,
    ) -> None:
        super().__init__(shape, item_features, **options)
        if readout not in _FEEDS:
            known = get_args(ReadoutKind)
            raise InputError(f"readout {readout!r} is unknown; {near_matches(readout, known)}")
        self.fed_in_training = _FEEDS[readout]
        self.trains_on_own_clicks = readout != "teacher"
        self.reads_clicks_above = readout not in ("threshold", "soft")
        self._feed = "click" if self.reads_clicks_above else self.fed_in_training

    def _build(self) -> int:
        self._build_walk()
        self.users = UserEncoder(self.shape.n_user_features, self.items.size)
        self.enter = torch.nn.Linear(self.items.size, self.hidden_size)
        return self.items.size

    def _start(self, user: Tensor) -> State:
        return self.users.start(user)

    def memory(self, state: State) -> Tensor:
        """Return the users' vectors [B, d]."""
        return self.users.vector(state)

    def _enter(self, state: State) -> tuple[Tensor, Tensor]:
        return self._begin(self.users.vector(state))

    def _begin(self, users: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.enter(users).tanh()
        return hidden, hidden.new_full((len(hidden),), self.items.empty, dtype=torch.int64)

    def _leave(self, state: State, slate: Tensor, walk: Walk) -> State:
        return self._observe(state, slate, walk.click)

    def _observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        return self.users.observe(state, self.items(self.items.rows(slate)), click)

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions at once."""
        b, r, s = batch.slate.shape
        rows = self.items.rows(batch.slate)
        users = self.users(batch.user, self.items(rows), batch.click)
        flat, offset = users.reshape(b * r, -1), self.session.parallel(batch)
        if (self.training and self.trains_on_own_clicks) or not self.reads_clicks_above:
            logits = self.generate(flat, batch.slate.view(b * r, s), offset.view(-1, 1)).logits
        else:
            hidden = self.enter(flat).tanh()
            place = torch.arange(s, device=rows.device).expand(b * r, s)
            click = batch.click.view(b * r, s)
            logits, _ = self.walk(
                hidden, rows.view(b * r, s), place, click, last_click(click, self.shape.n_positions)
            )
            logits = logits + offset.view(-1, 1)
        return Evaluation(logits.view(b, r, s), users)

    def generate(self, users: Tensor, slate: Tensor, offset: Tensor | None = None) -> Walk:
        """Walk slates [B, S] for users with vectors [B, d], feeding on clicks of its own.

        `offset` [B, 1] is added to all log-odds. The clicks are those of the readout: draws,
        relaxed draws, or none at all.
        """
        uniform = None
        if self.fed_in_training == "click":
            uniform = torch.rand(slate.shape, device=slate.device)
        feed = self.fed_in_training
        return self.scan(*self._begin(users), slate, uniform=uniform, feed=feed, offset=offset)


class _Carrying(ClickGRU):
    """What SessionGRU and HierarchicalGRU share: a hidden state carried from slate to slate.

    It starts from the user's features, from zeros where the log has none.
    """

    def _build(self) -> int:
        self._build_walk()
        features = self.shape.n_user_features
        self.enter = UserFeatures(features, self.hidden_size) if features else None
        return self.hidden_size + self.items.size

    def _start(self, user: Tensor) -> State:
        size = self.hidden_size
        hidden = user.new_zeros(len(user), size) if self.enter is None else self.enter(user).tanh()
        above = torch.full((len(user),), self.items.empty, device=user.device)
        return {"hidden": hidden, "above": above}

    def memory(self, state: State) -> Tensor:
        """Return the hidden state and the vector of the last item if it was clicked, [B, H + d]."""
        return torch.cat([state["hidden"], self.items(state["above"])], -1)

    def _enter(self, state: State) -> tuple[Tensor, Tensor]:
        return state["hidden"], state["above"]

    def _leave(self, state: State, slate: Tensor, walk: Walk) -> State:
        return {"hidden": walk.mean if self._averages else walk.hidden, "above": walk.above}


class SessionGRU(_Carrying):
    """One GRU through all positions of all slates of the session, in order.

    Args: as `NeuralResponder`.
    """

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions at once."""
        b, r, s = batch.slate.shape
        rows = self.items.rows(batch.slate).view(b, r * s)
        place = torch.arange(s, device=rows.device).repeat(r).expand(b, r * s)
        hidden, click = self.start(batch.user)["hidden"], batch.click.reshape(b, r * s)
        last = last_click(batch.click, self.shape.n_positions).view(b, r * s)
        logits, states = self.walk(hidden, rows, place, click, last)
        logits = logits.view(b, r, s) + self.session.parallel(batch)
        if self.pick is None:
            return Evaluation(logits, None)
        clicked = last_clicked(self.items(rows), click, batch.shown)
        memory = torch.cat([before(states, hidden, batch.shown), clicked], -1)
        return Evaluation(logits, memory)


class HierarchicalGRU(_Carrying):
    """A GRU inside the slate; the mean of its states is the session state that starts the next.

    Args: as `NeuralResponder`.
    """

    _averages = True

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions at once; the slates one after the other."""
        rows = self.items.rows(batch.slate)
        state, logits, memories = self._start(batch.user), [], []
        for r in range(rows.shape[1]):
            memories.append(self.memory(state))
            walked, state = self._slate(state, rows[:, r], batch.click[:, r])
            logits.append(walked)
        whole = torch.stack(logits, 1) + self.session.parallel(batch)
        return Evaluation(whole, torch.stack(memories, 1))

    def _slate(self, state: State, rows: Tensor, click: Tensor) -> tuple[Tensor, State]:
        hidden, above = state["hidden"], state["above"]
        place = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
        logits, states = self.walk(
            hidden, rows, place, click, last_click(click, self.shape.n_positions), self.items(above)
        )
        filled = rows != self.items.empty
        n = filled.sum(1, keepdim=True)
        inside = torch.arange(states.shape[1], device=rows.device) < n
        mean = (states * inside.unsqueeze(-1)).sum(1) / n.clamp(min=1)
        last = place.masked_fill(~filled, -1).amax(1, keepdim=True)
        row = rows.gather(1, last.clamp(min=0)).squeeze(1)
        clicked = click.gather(1, last.clamp(min=0)).squeeze(1) > 0
        here = torch.where(clicked, row, self.items.empty)
        some = n.squeeze(1) > 0
        return logits, {
            "hidden": torch.where(some.unsqueeze(1), mean, hidden),
            "above": torch.where(some, here, above),
        }
