"""What every neural responder knows of a session besides what its network remembers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.log.batch import SessionBatch
from responders.log.session_log import SessionLog
from responders.models.parts.activation import Activation
from responders.models.parts.exposure import Exposure
from responders.models.parts.items import ItemEncoder
from responders.models.parts.users import ClickedItems
from responders.models.state import State


class SessionTables(NamedTuple):
    """What a `SessionContext` needs of items, for table rows [...]."""

    vector: Tensor  # [..., d]
    group: Tensor  # [..., G], of `Exposure.groups`; G = 0 without it


class SessionContext(nn.Module):
    """Log-odds that the items of a slate gain or lose by the user and the session so far.

    It is the sum of `SessionCounts`, `UserMatch`, `Exposure` and `Activation`. They hold the
    effects that an optimising policy drives furthest from the log, in a form that is known to
    extrapolate.

    Args:
        n_positions: S.
        n_user_features: F.
        items: make the item vectors.
        match: whether to add the match of items and users.
        window: W of the exposure; 0 = do not subtract it.
        activation: whether to add the base-level activation.
    """

    def __init__(
        self,
        n_positions: int,
        n_user_features: int,
        items: ItemEncoder,
        match: bool = True,
        window: int = 5,
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.counts = SessionCounts()
        self.match = UserMatch(n_user_features, items.size) if match else None
        size = items.likeness_size
        self.exposure = Exposure(n_positions, size, items.n_rows, window) if window else None
        self.activation = Activation() if activation else None

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Learn the scale of the user features from the training sessions."""
        if self.match is not None:
            self.match.users.initialise(log, sessions)

    def tables(self, items: ItemEncoder, rows: Tensor | None = None) -> SessionTables:
        """Return what is needed of the table rows `rows` [...], by default of all of them."""
        rows = items.every_row() if rows is None else rows
        vector = items.vector(rows)
        empty = vector.new_zeros(*rows.shape, 0)
        return SessionTables(vector, self.exposure.groups(items, rows) if self.exposure else empty)

    def _look_up(
        self, items: ItemEncoder, slate: Tensor, tables: SessionTables | None
    ) -> SessionTables:
        rows = items.index(slate)
        if tables is None:
            return self.tables(items, rows)
        return SessionTables(F.embedding(rows, tables.vector), F.embedding(rows, tables.group))

    def start(self, user: Tensor) -> State:
        """Return the state of new users with features [B, F]."""
        state: State = {"counts": self.counts.start(user)}
        if self.match is not None:
            state["users"] = self.match.users.start(user)
        if self.exposure is not None:
            state["exposure"] = self.exposure.start(user)
        if self.activation is not None:
            state["activation"] = self.activation.start(user)
        return state

    def observe(
        self,
        state: State,
        items: ItemEncoder,
        slate: Tensor,
        click: Tensor,
        tables: SessionTables | None = None,
    ) -> State:
        """Return the state after clicks [B, S] on a slate [B, S]; an empty one changes nothing.

        Args:
            state: before the slate.
            items: make the item vectors.
            slate: [B, S].
            click: [B, S].
            tables: from `tables`, of the weights as they are; None = computed here.
        """
        vector, group = self._look_up(items, slate, tables)
        after: State = {"counts": self.counts.observe(state["counts"], slate, click)}
        if self.match is not None:
            after["users"] = self.match.users.observe(state["users"], vector, click)
        if self.exposure is not None:
            after["exposure"] = self.exposure.observe(state["exposure"], group, slate)
        if self.activation is not None:
            after["activation"] = self.activation.observe(state["activation"], slate, click)
        return after

    def forward(
        self, state: State, items: ItemEncoder, slate: Tensor, tables: SessionTables | None = None
    ) -> Tensor:
        """Return the log-odds [B, S] to add to a slate [B, S]; see `observe`."""
        vector, group = self._look_up(items, slate, tables)
        log_odds = self.counts(state["counts"]).expand(slate.shape)
        if self.match is not None:
            log_odds = log_odds + self.match(self.match.users.vector(state["users"]), vector)
        if self.exposure is not None:
            log_odds = log_odds + self.exposure(state["exposure"], group, slate)
        if self.activation is not None:
            log_odds = log_odds + self.activation(state["activation"], slate)
        return log_odds

    def parallel(self, items: ItemEncoder, batch: SessionBatch) -> Tensor:
        """Return the log-odds [B, R, S] to add to every slate of `batch`."""
        vector, group = self._look_up(items, batch.slate, None)
        log_odds = self.counts.parallel(batch).expand(batch.slate.shape)
        if self.match is not None:
            users = self.match.users(batch.user, vector, batch.click)
            log_odds = log_odds + self.match(users, vector)
        if self.exposure is not None:
            log_odds = log_odds + self.exposure.parallel(group, batch)
        if self.activation is not None:
            log_odds = log_odds + self.activation.parallel(batch)
        return log_odds


class UserMatch(nn.Module):
    """The match u·Me of an item e with a user u, the features and the mean of the clicked items.

    Args:
        n_user_features: F.
        size: d of the item vectors.
    """

    def __init__(self, n_user_features: int, size: int) -> None:
        super().__init__()
        self.users = ClickedItems(n_user_features, size)
        self.matrix = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.matrix.weight)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Return the log-odds [..., S] of users [..., d] and items [..., S, d]."""
        return (item @ self.matrix(user).unsqueeze(-1)).squeeze(-1)


class SessionCounts(nn.Module):
    """Log-odds that all positions of a slate gain or lose by five numbers of the session.

    A linear function, zero at first, of: whether there was a slate before, the number of slates in
    a row without a click, the slates and the clicks so far (as log(1 + n)), and the share of slates
    with a click. A user who found nothing twice clicks less whatever is shown; a recurrent state
    can learn that too, but needs far more sessions.

    Its state [B, 4] float32 counts slates, slates in a row without a click, clicks, and slates
    with a click.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(5, 1, bias=False)
        nn.init.zeros_(self.weight.weight)

    def start(self, user: Tensor) -> Tensor:
        """Return the counts [B, 4] of new users with features [B, F]."""
        return user.new_zeros(len(user), 4)

    def observe(self, counts: Tensor, slate: Tensor, click: Tensor) -> Tensor:
        """Return the counts after clicks [B, S] on a slate [B, S]; an empty one does not count."""
        slates, streak, clicks, with_click = counts.unbind(1)
        new = click.to(counts.dtype).sum(1)
        seen, clicked = (slate >= 0).any(1).to(counts.dtype), (new > 0).to(counts.dtype)
        after = slates + seen, (streak + seen) * (1 - clicked), clicks + new, with_click + clicked
        return torch.stack(after, 1)

    def forward(self, counts: Tensor) -> Tensor:
        """Return the log-odds [..., 1] to add to every position of the next slate."""
        slates, streak, clicks, with_click = counts.unbind(-1)
        has_history = (slates > 0).to(counts.dtype)
        share = with_click / slates.clamp(min=1)
        inputs = has_history, streak.log1p(), slates.log1p(), clicks.log1p(), share
        return self.weight(torch.stack(inputs, -1))

    def parallel(self, batch: SessionBatch) -> Tensor:
        """Return the log-odds [B, R, 1] to add to every position of each slate of `batch`."""
        seen, clicks = batch.shown.any(2), batch.click.sum(2)
        clicked = clicks > 0
        slates = seen.cumsum(1)
        # The streak is the number of slates since the last one with a click.
        at_last_click = torch.where(clicked, slates, 0).cummax(1).values
        after = slates, slates - at_last_click, clicks.cumsum(1), clicked.cumsum(1)
        counts = torch.stack(after, -1).to(batch.click.dtype)
        return self(F.pad(counts, (0, 0, 1, 0))[:, :-1])
