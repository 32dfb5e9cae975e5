"""Recurrent responders: a GRU walks down the positions and reads what was clicked above.

SlateGRU starts anew for each slate from the user's vector; SessionGRU walks on from slate to slate
(arXiv 2409.20055). Both are one `ClickGRU`, run over whole sessions or position by position.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.base import LogShape, Responder, Response, State, cached, draw_uniform
from responders.batch import SessionBatch
from responders.catalogue import Catalogue
from responders.counts import position_log_odds
from responders.features import ItemEncoder, UserEncoder, UserFeatures
from responders.log import SessionLog

_LARGEST_TABLE = 1 << 16  # items; beyond it per-item products are computed as they are needed


class _Tables(NamedTuple):
    """What the walk needs of every item (a table row each), H hidden units."""

    enter: Tensor  # [rows, 3H] input of the three gates when the item is shown
    read: Tensor  # [rows, H] readout: logit = read · hidden + bias
    bias: Tensor  # [rows]
    click: Tensor  # [rows, 3H] input of the next position's gates when the item was clicked

    # F.embedding gathers whole rows several times faster than indexing does.
    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.embedding(rows, self.enter), F.embedding(rows, self.read), self.bias[rows]


class ClickGRU(nn.Module):
    """GRU over positions: input [e_s, e_above · click_above], readout by hidden state and item.

    The log-odds at a position are w·h + e·Qh + item bias + position bias, h the hidden state after
    the position's item has entered. The click of the item above enters as the product of its vector
    and the click, so that it changes the input of the next position and nothing else.

    Args:
        items: the item encoder, d.
        n_positions: S.
        hidden_size: H.
    """

    def __init__(self, items: ItemEncoder, n_positions: int, hidden_size: int) -> None:
        super().__init__()
        self.items = items
        self.gru = nn.GRU(2 * items.size, hidden_size, batch_first=True)
        self.position = nn.Embedding(n_positions, items.size)
        self.position_bias = nn.Embedding(n_positions, 1)
        self.match = nn.Linear(hidden_size, items.size)
        self.out = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.position.weight, std=0.1)
        nn.init.zeros_(self.position_bias.weight)

    def extend(self, catalogue: Catalogue) -> None:
        """Make room for cold items; see `ItemEncoder.extend`."""
        self.items.extend(catalogue)

    def forward(self, hidden: Tensor, rows: Tensor, place: Tensor, click: Tensor) -> Tensor:
        """Return log-odds [B, L] of L positions in a row, clicks given; empty ones are skipped.

        Args:
            hidden: [B, H] the state before the first position.
            rows: [B, L] int64 table rows of the items.
            place: [B, L] int64 position of each item in its slate.
            click: [B, L] float.
        """
        filled = rows != self.items.empty
        order = torch.argsort(~filled, dim=1, stable=True)  # empty positions last
        longest = max(int(filled.sum(1).max()), 1)
        order = order[:, :longest]
        rows, place, clicked = (t.gather(1, order) for t in (rows, place, click))
        item = self.items(rows)
        above = F.pad(item * clicked.unsqueeze(-1), (0, 0, 1, 0))[:, :-1]
        hidden_states, _ = self.gru(
            torch.cat([item + self.position(place), above], -1), hidden.unsqueeze(0).contiguous()
        )
        logits = (self.match(hidden_states) * item).sum(-1) + self.out(hidden_states).squeeze(-1)
        logits = logits + (self.items.bias(rows) + self.position_bias(place)).squeeze(-1)
        return torch.zeros_like(click).to(logits.dtype).scatter(1, order, logits)

    def scan(
        self,
        hidden: Tensor,
        above: Tensor,
        slate: Tensor,
        click: Tensor | None = None,
        uniform: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Walk one slate position by position.

        Args:
            hidden: [B, H].
            above: [B] int64, table row of the last item if it was clicked, else the empty row.
            slate: [B, S].
            click: [B, S] given clicks; or
            uniform: [B, S] in [0, 1): a position is clicked where uniform < probability. With
                neither, the probabilities themselves are fed on.

        Returns:
            log-odds [B, S], clicks [B, S] bool, hidden [B, H], above [B].
        """
        rows = self.items.rows(slate)
        tables = cached(self, self._tables) if self._tabled else None
        by_position = rows.t()  # positions first: slices are contiguous
        enter, read, bias = (
            self._products(by_position) if tables is None else tables.take(by_position)
        )

        def click_input(row: Tensor) -> Tensor:
            return self._click_product(row) if tables is None else F.embedding(row, tables.click)

        place = F.linear(self.position.weight, self._gates()[0])
        gaps = slate.is_cuda or bool((slate < 0).any())
        soft, logits, clicks = None, [], []
        for s in range(slate.shape[1]):
            row = rows[:, s]
            x = enter[s] + place[s] + (click_input(above) if soft is None else soft)
            walked = self._cell(x, hidden)
            odds = (read[s] * walked).sum(-1) + bias[s] + self.position_bias.weight[s, 0]
            if click is not None:
                clicked = click[:, s] > 0
            elif uniform is not None:
                clicked = uniform[:, s] < odds.sigmoid()
            else:
                clicked = torch.zeros_like(row, dtype=torch.bool)
                fed = odds.sigmoid().unsqueeze(1) * click_input(row)
                if gaps and soft is not None:
                    fed = torch.where((row == self.items.empty).unsqueeze(1), soft, fed)
                soft = fed
            if gaps:
                empty = row == self.items.empty
                walked = torch.where(empty.unsqueeze(1), hidden, walked)
                clicked = clicked & ~empty
                above = torch.where(empty, above, torch.where(clicked, row, self.items.empty))
            else:
                above = torch.where(clicked, row, self.items.empty)
            hidden = walked
            logits.append(odds)
            clicks.append(clicked)
        return torch.stack(logits, 1), torch.stack(clicks, 1), hidden, above

    def _cell(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the next hidden state [B, H] for gate inputs x [B, 3H]; as `nn.GRU` defines it."""
        size, weight, bias = self.gru.hidden_size, self.gru.weight_hh_l0, self.gru.bias_hh_l0
        gates = torch.addmm(cast(Tensor, bias), hidden, cast(Tensor, weight).t())
        reset_update = (x[:, : 2 * size] + gates[:, : 2 * size]).sigmoid()
        reset, update = reset_update.split(size, 1)
        candidate = torch.addcmul(x[:, 2 * size :], reset, gates[:, 2 * size :]).tanh()
        return torch.lerp(candidate, hidden, update)

    def _gates(self) -> tuple[Tensor, Tensor]:
        """Return the input weights of the item shown and of the clicked one above, [3H, d]."""
        item, above = cast(Tensor, self.gru.weight_ih_l0).split(self.items.size, 1)
        return item, above

    def _products(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the walk needs of the items in `rows`, as `_Tables` names it."""
        item = self.items(rows)
        enter = F.linear(item, self._gates()[0], cast(Tensor, self.gru.bias_ih_l0))
        read = item @ self.match.weight + self.out.weight
        bias = item @ self.match.bias + self.items.bias(rows).squeeze(-1) + self.out.bias
        return enter, read, bias

    def _click_product(self, rows: Tensor) -> Tensor:
        return F.linear(self.items(rows), self._gates()[1])

    def _tables(self) -> _Tables:
        rows = torch.arange(self.items.bias.num_embeddings, device=self.out.bias.device)
        return _Tables(*self._products(rows), self._click_product(rows))

    @property
    def _tabled(self) -> bool:
        return not torch.is_grad_enabled() and self.items.bias.num_embeddings <= _LARGEST_TABLE


class _Recurrent(Responder):
    """What SlateGRU and SessionGRU share: the walk, its start, and sampling down the positions."""

    reads_clicks_above: ClassVar[bool] = True

    def __init__(
        self,
        shape: LogShape,
        item_features: Tensor | None = None,
        *,
        embedding: str = "learned",
        embedding_size: int = 32,
        min_shown: int = 10,
        hidden_size: int = 64,
    ) -> None:
        super().__init__(shape)
        items = ItemEncoder(shape.n_items, embedding_size, embedding, item_features, min_shown)
        self.walk = ClickGRU(items, shape.n_positions, hidden_size)
        self._build()

    def _build(self) -> None:
        """Make the modules of the subclass."""
        raise NotImplementedError

    @property
    def items(self) -> ItemEncoder:
        """The item encoder."""
        return self.walk.items

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start from the training click rates by position; send rare items to the unknown row."""
        self.items.initialise(log, sessions)
        with torch.no_grad():
            self.walk.position_bias.weight.copy_(position_log_odds(log, sessions).unsqueeze(1))
            self.walk.out.bias.zero_()

    def _enter(self, state: State) -> tuple[Tensor, Tensor]:
        """Return hidden state [B, H] and clicked row above [B] at the slate's first position."""
        raise NotImplementedError

    def _leave(
        self, state: State, slate: Tensor, click: Tensor, hidden: Tensor, above: Tensor
    ) -> State:
        """Return the state after a slate was walked with `click`."""
        raise NotImplementedError

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`."""
        return self.walk.scan(*self._enter(state), slate, click)[0]

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after the slate; see `Responder.observe`."""
        _, _, hidden, above = self.walk.scan(*self._enter(state), slate, click)
        return self._leave(state, slate, click, hidden, above)

    def respond(
        self,
        state: State,
        slate: Tensor,
        generator: torch.Generator | None = None,
        *,
        uniform: Tensor | None = None,
    ) -> Response:
        """Draw clicks position by position, each given those above; see `Responder.respond`."""
        uniform = draw_uniform(slate, generator, uniform)
        walked = self.walk.scan(*self._enter(state), slate, uniform=uniform)
        logits, click, hidden, above = walked
        probability = torch.where(slate >= 0, logits.sigmoid(), 0.0)
        return Response(click, probability, self._leave(state, slate, click, hidden, above))


class SlateGRU(_Recurrent):
    """A GRU down the positions of one slate; it starts from the mean of the items clicked so far.

    Args:
        shape: sizes of the log.
        item_features: [N, K] given item vectors for the embeddings that need them.
        embedding: learned, svd, explicit or content.
        embedding_size: d.
        min_shown: items shown less often in training share the unknown item's vector.
        hidden_size: H, units of the GRU.
    """

    def _build(self) -> None:
        self.users = UserEncoder(self.shape.n_user_features, self.items.size)
        self.enter = nn.Linear(self.items.size, self.walk.gru.hidden_size)

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start as the walk does and learn the scale of the user features."""
        super().initialise(log, sessions)
        self.users.initialise(log, sessions)

    def start(self, user: Tensor) -> State:
        """Return the state of new users; see `Responder.start`."""
        return self.users.start(user)

    def _enter(self, state: State) -> tuple[Tensor, Tensor]:
        hidden = self.enter(self.users.vector(state)).tanh()
        return hidden, hidden.new_full((len(hidden),), self.items.empty, dtype=torch.int64)

    def _leave(
        self, state: State, slate: Tensor, click: Tensor, hidden: Tensor, above: Tensor
    ) -> State:
        return self.users.observe(state, self.items(self.items.rows(slate)), click)

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after the slate; see `Responder.observe`."""
        return self._leave(state, slate, click, click, click)

    def forward(self, batch: SessionBatch) -> Tensor:
        """Return log-odds [B, R, S]; see `Responder.forward`."""
        b, r, s = batch.slate.shape
        rows = self.items.rows(batch.slate)
        users = self.users(batch.user, self.items(rows), batch.click)
        hidden = self.enter(users).tanh().reshape(b * r, -1)
        place = torch.arange(s, device=rows.device).expand(b * r, s)
        logits = self.walk(hidden, rows.reshape(b * r, s), place, batch.click.reshape(b * r, s))
        return logits.view(b, r, s)


class SessionGRU(_Recurrent):
    """One GRU through all positions of all slates of the session, in order.

    Its state starts from the user's features, from zeros where the log has none.

    Args: as `SlateGRU`.
    """

    def _build(self) -> None:
        features, size = self.shape.n_user_features, self.walk.gru.hidden_size
        self.enter = UserFeatures(features, size) if features else None

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start as the walk does and learn the scale of the user features."""
        super().initialise(log, sessions)
        if self.enter is not None:
            self.enter.initialise(log, sessions)

    def start(self, user: Tensor) -> State:
        """Return the state of new users; see `Responder.start`."""
        size = self.walk.gru.hidden_size
        hidden = user.new_zeros(len(user), size) if self.enter is None else self.enter(user).tanh()
        above = torch.full((len(user),), self.items.empty, device=user.device)
        return {"hidden": hidden, "above": above}

    def _enter(self, state: State) -> tuple[Tensor, Tensor]:
        return state["hidden"], state["above"]

    def _leave(
        self, state: State, slate: Tensor, click: Tensor, hidden: Tensor, above: Tensor
    ) -> State:
        return {"hidden": hidden, "above": above}

    def forward(self, batch: SessionBatch) -> Tensor:
        """Return log-odds [B, R, S]; see `Responder.forward`."""
        b, r, s = batch.slate.shape
        rows = self.items.rows(batch.slate).view(b, r * s)
        place = torch.arange(s, device=rows.device).repeat(r).expand(b, r * s)
        hidden = self.start(batch.user)["hidden"]
        return self.walk(hidden, rows, place, batch.click.reshape(b, r * s)).view(b, r, s)
