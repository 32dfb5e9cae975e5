"""The walk down the positions of a slate that all recurrent responders share."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.models.base import LARGEST_TABLE, Response, cached, draw_uniform
from responders.models.neural import NeuralResponder
from responders.models.parts.packing import compact, gather
from responders.models.state import State

TEMPERATURE = 0.3
"""Of the binary-concrete clicks that let a gradient through (arXiv 2409.20055)."""

Feed = Literal["click", "soft", "threshold", "relaxed"]
"""What a position passes to the next: its click, its probability, whether that is over one half,
or a differentiable draw."""


class Walk(NamedTuple):
    """What comes of walking down a slate."""

    logits: Tensor  # [B, S] log-odds
    click: Tensor  # [B, S] bool clicks, given or drawn; with feed `relaxed` float in (0, 1)
    hidden: Tensor  # [B, H] after the last position
    mean: Tensor  # [B, H] mean over the filled positions; the hidden state before if there is none
    above: Tensor  # [B] int64 table row of the last item if it was clicked, else the empty row


class _Tables(NamedTuple):
    """What the walk needs of every item (a table row each) and position, H hidden units."""

    place: Tensor  # [S, 3H] input of the three gates at the position
    after: Tensor  # [S, S + 1] log-odds at the position by the last click above
    enter: Tensor  # [rows, 3H] input of the three gates when the item is shown
    read: Tensor  # [rows, H] readout: logit = read · hidden + bias
    bias: Tensor  # [rows]
    click: Tensor  # [rows, 3H] input of the next position's gates when the item was clicked

    # F.embedding gathers whole rows several times faster than indexing does.
    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.embedding(rows, self.enter), F.embedding(rows, self.read), self.bias[rows]


class ClickGRU(NeuralResponder):
    """Base of the recurrent responders: a GRU over positions that reads the clicks above.

    Its input is [e_s, e_above · click_above]: the click of the item above enters as the product of
    its vector and the click, so that it changes the input of the next position and nothing else.
    The readout sees the hidden state after the position's item has entered.

    Subclasses say where a walk starts (`_enter`) and what it leaves (`_leave`).
    """

    reads_clicks_above = True
    _feed: Feed = "click"

    def _build_walk(self) -> None:
        self.gru = nn.GRU(2 * self.items.size, self.hidden_size, batch_first=True)
        self.position = nn.Embedding(self.shape.n_positions, self.items.size)
        nn.init.normal_(self.position.weight, std=0.1)

    def _enter(self, state: State) -> tuple[Tensor, Tensor]:
        """Return hidden state [B, H] and clicked row above [B] at the slate's first position."""
        raise NotImplementedError

    def _leave(self, state: State, slate: Tensor, walk: Walk) -> State:
        """Return the state after a slate was walked."""
        raise NotImplementedError

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`."""
        return self.scan(*self._enter(state), slate, click, offset=self.session(state)).logits

    def _observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        return self._leave(state, slate, self.scan(*self._enter(state), slate, click))

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
        offset = self.session(state)
        walk = self.scan(*self._enter(state), slate, uniform=uniform, offset=offset)
        probability = torch.where(slate >= 0, walk.logits.sigmoid(), 0.0)
        after = self._leave(state, slate, walk) | self.session.observe(state, slate, walk.click)
        return Response(walk.click, probability, after)

    def walk(
        self,
        hidden: Tensor,
        rows: Tensor,
        place: Tensor,
        click: Tensor,
        last: Tensor,
        above: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Walk L positions in a row at once, clicks given; empty ones are skipped.

        Args:
            hidden: [B, H] the state before the first position.
            rows: [B, L] int64 table rows of the items.
            place: [B, L] int64 position of each item in its slate.
            click: [B, L] float.
            last: [B, L] int64, `last_click` of each slate.
            above: [B, d] the vector of the item before the first if it was clicked, else zeros.

        Returns:
            log-odds [B, L], and the hidden states [B, L', H] after the filled positions alone, as
            `compact` orders them.
        """
        order = compact(rows != self.items.empty)
        rows, place, clicked, last = (gather(t, order) for t in (rows, place, click, last))
        item = self.items(rows)
        passed = F.pad(item * clicked.unsqueeze(-1), (0, 0, 1, 0))[:, :-1]
        if above is not None:
            passed = torch.cat([above.unsqueeze(1), passed[:, 1:]], 1)
        states, _ = self.gru(
            torch.cat([item + self.position(place), passed], -1), hidden.unsqueeze(0).contiguous()
        )
        logits = self.readout(states, item, self.items.bias(rows), place, last)
        return torch.zeros_like(click).to(logits.dtype).scatter(1, order, logits), states

    def scan(
        self,
        hidden: Tensor,
        above: Tensor,
        slate: Tensor,
        click: Tensor | None = None,
        uniform: Tensor | None = None,
        feed: Feed | None = None,
        offset: Tensor | None = None,
    ) -> Walk:
        """Walk one slate position by position.

        Args:
            hidden: [B, H].
            above: [B] int64, table row of the last item if it was clicked, else the empty row.
            slate: [B, S].
            click: [B, S] given clicks; or
            uniform: [B, S] in [0, 1): a position is clicked where uniform < probability.
            feed: what is fed on, by default the responder's own; where clicks are to be fed but
                none are given or drawn, probabilities are.
            offset: [B, 1] to add to the log-odds of every position.
        """
        rows = self.items.rows(slate)
        tables = cached(self, self._tables) if self._tabled else None
        by_position = rows.t()  # positions first: slices are contiguous
        if tables is None:
            (place, after), items = self._positions(), self._products(by_position)
        else:
            place, after, items = tables.place, tables.after, tables.take(by_position)
        enter, read, bias = items

        def click_input(row: Tensor) -> Tensor:
            return self._click_product(row) if tables is None else F.embedding(row, tables.click)

        feed = feed or self._feed
        if feed == "click" and click is None and uniform is None:
            feed = "soft"
        gaps = may_have_gaps(slate)
        logits, clicks = [], []
        fed, before, total = None, hidden, torch.zeros_like(hidden)
        n = after.shape[0]
        # Where no click is fed, what is fed on in its place says which click was probably the last.
        sure = feed == "click"
        last = (
            torch.full_like(rows[:, 0], n)
            if sure
            else F.one_hot(torch.full_like(rows[:, 0], n), n + 1)
        )
        if offset is not None:
            bias = bias + offset.squeeze(1)
        each = (by_position, enter, place, read, bias, after)  # views of all positions in one call
        for s, (row, entering, there, reading, start, lasting) in enumerate(
            zip(*(t.unbind(0) for t in each), strict=False)
        ):
            x = entering + there + (click_input(above) if fed is None else fed)
            walked = self._cell(x, hidden)
            odds = (reading * walked).sum(-1) + start
            odds = odds + (lasting[last] if sure else last.to(odds.dtype) @ lasting)
            filled = row != self.items.empty if gaps else None
            clicked = self._clicked(odds, s, click, uniform, feed)
            if filled is not None:
                walked = torch.where(filled.unsqueeze(1), walked, hidden)
                clicked = clicked * filled
            if sure:
                last = last.masked_fill(clicked, s)
            else:
                weight = self._passed(odds, clicked, feed).unsqueeze(1)
                weight = weight if filled is None else weight * filled.unsqueeze(1)
                here = F.one_hot(torch.tensor(s, device=odds.device), n + 1)
                last = weight * here + (1 - weight) * last
                passed = weight * click_input(row)
                if filled is not None and fed is not None:
                    passed = torch.where(filled.unsqueeze(1), passed, fed)
                fed = passed
            if clicked.dtype == torch.bool:
                here = torch.where(clicked, row, self.items.empty)
                above = here if filled is None else torch.where(filled, here, above)
            if self._averages:
                total = total + (walked if filled is None else walked * filled.unsqueeze(1))
            hidden = walked
            logits.append(odds)
            clicks.append(clicked)
        mean = hidden
        if self._averages:
            shown = (rows != self.items.empty).sum(1, keepdim=True)
            mean = torch.where(shown > 0, total / shown.clamp(min=1), before)
        return Walk(torch.stack(logits, 1), torch.stack(clicks, 1), hidden, mean, above)

    _averages = False  # whether a subclass needs Walk.mean

    @staticmethod
    def _clicked(
        odds: Tensor, s: int, click: Tensor | None, uniform: Tensor | None, feed: Feed
    ) -> Tensor:
        if click is not None:
            return click[:, s] > 0
        if uniform is not None:
            return uniform[:, s] < odds.sigmoid()
        if feed == "relaxed":
            noise = torch.rand_like(odds).clamp(1e-6, 1 - 1e-6)
            return ((odds + torch.logit(noise)) / TEMPERATURE).sigmoid()
        return torch.zeros_like(odds, dtype=torch.bool)

    @staticmethod
    def _passed(odds: Tensor, clicked: Tensor, feed: Feed) -> Tensor:
        """Return what [B] a position passes on in place of its click."""
        if feed == "soft":
            return odds.sigmoid()
        return (odds > 0).to(odds.dtype) if feed == "threshold" else clicked.to(odds.dtype)

    def _cell(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the next hidden state [B, H] for gate inputs x [B, 3H]; as `nn.GRU` defines it."""
        size, weight, bias = self.hidden_size, self.gru.weight_hh_l0, self.gru.bias_hh_l0
        gates = F.linear(hidden, cast(Tensor, weight), cast(Tensor, bias))
        entering, candidate = x.split([2 * size, size], 1)
        kept, proposed = gates.split([2 * size, size], 1)
        reset, update = (entering + kept).sigmoid().split(size, 1)
        candidate = torch.addcmul(candidate, reset, proposed).tanh()
        return torch.lerp(candidate, hidden, update)

    def _gates(self) -> tuple[Tensor, Tensor]:
        """Return the input weights of the item shown and of the clicked one above, [3H, d]."""
        item, above = cast(Tensor, self.gru.weight_ih_l0).split(self.items.size, 1)
        return item, above

    def _products(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the walk needs of the items in `rows`, as `_Tables` names it."""
        item = self.items(rows)
        enter = F.linear(item, self._gates()[0], cast(Tensor, self.gru.bias_ih_l0))
        match, out = self.readout.match, self.readout.out
        read = item @ match.weight + out.weight
        bias = item @ match.bias + self.items.bias(rows).squeeze(-1) + out.bias
        return enter, read, bias

    def _positions(self) -> tuple[Tensor, Tensor]:
        """Return what the walk needs of the positions, as `_Tables` names it."""
        assert self.readout.after is not None
        place = F.linear(self.position.weight, self._gates()[0])
        return place, self.readout.after + self.readout.position_bias.weight

    def _click_product(self, rows: Tensor) -> Tensor:
        return F.linear(self.items(rows), self._gates()[1])

    def _tables(self) -> _Tables:
        rows = torch.arange(self.items.bias.num_embeddings, device=self.items.bias.weight.device)
        return _Tables(*self._positions(), *self._products(rows), self._click_product(rows))

    @property
    def _tabled(self) -> bool:
        return not torch.is_grad_enabled() and self.items.bias.num_embeddings <= LARGEST_TABLE


def may_have_gaps(slate: Tensor) -> bool:
    """Return whether `slate` may have empty positions; on a GPU always, for looking would wait."""
    return slate.device.type != "cpu" or bool((slate < 0).any())
