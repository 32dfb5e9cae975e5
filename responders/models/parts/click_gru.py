"""A GRU that reads slates position by position, and the clicks above each position."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.models.parts.items import ItemEncoder
from responders.models.parts.packing import gather, packed_order, unpack
from responders.models.parts.readout import Finishing, Readout


class Tables(NamedTuple):
    """Products of weights with every item (one table row each) and every position.

    Reading a slate needs only these, so a responder whose weights are fixed computes them once.
    The 3H columns are the inputs of the three gates of the GRU.
    """

    position: Tensor  # [S, 3H] gate input of a position
    last_click: Tensor  # [S, S + 1] log-odds at a position by the position of the last click above
    shown: Tensor  # [rows, 3H] gate input of the item shown
    clicked: Tensor  # [rows, 3H] gate input at the next position if the item was clicked
    readout: Tensor  # [rows, H] log-odds = readout · hidden + bias
    bias: Tensor  # [rows]
    finishing: Finishing


class SlateInputs(NamedTuple):
    """What reading one slate of B users needs. Positions come first: slices are contiguous."""

    rows: Tensor  # [S, B] table rows of the items
    empty: int  # the row of the empty position
    filled: Tensor | None  # [S, B] bool; None where no position is empty
    shown: Tensor  # [S, B, 3H] gate input of the item
    position: Tensor  # [S, 3H] gate input of the position
    clicked: Tensor  # [S, B, 3H] gate input after a click; or the table [rows, 3H] to look it up in
    readout: Tensor  # [S, B, H]
    bias: Tensor  # [S, B]
    last_click: Tensor  # [S, S + 1]
    finishing: Finishing

    def after(self, s: int, click: Tensor) -> Tensor:
        """Return the gate input [B, 3H] after position `s`, for clicks or their weights [B]."""
        if self.clicked.ndim == 3:
            return self.clicked[s] * click.unsqueeze(1)
        # Looking up one position at a time keeps the rows in the cache of the processor.
        if click.dtype == torch.bool:  # the row of the empty position is zero
            return F.embedding(torch.where(click, self.rows[s], self.empty), self.clicked)
        return F.embedding(self.rows[s], self.clicked) * click.unsqueeze(1)


class Reading(NamedTuple):
    """What comes of reading one slate."""

    logits: Tensor  # [B, S] log-odds of a click
    click: Tensor  # [B, S] bool; from `read_soft` the weights in [0, 1] that took its place
    states: list[Tensor]  # S times [B, H], the hidden state after each position


class ClickGRU(nn.Module):
    """A GRU over the positions of slates.

    Its input is [e_s + p_s, e_above · click_above]: the click of the item above enters as the
    product of its vector and the click, so that it changes the input of the next position and
    nothing else. The readout sees the hidden state after the position's item was read.

    Args:
        n_positions: S.
        item_size: d of the item vectors.
        hidden_size: H.
    """

    def __init__(self, n_positions: int, item_size: int, hidden_size: int) -> None:
        super().__init__()
        self.item_size, self.hidden_size = item_size, hidden_size
        self.gru = nn.GRU(2 * item_size, hidden_size, batch_first=True)
        self.position = nn.Embedding(n_positions, item_size)
        nn.init.normal_(self.position.weight, std=0.1)

    def parallel(
        self,
        items: ItemEncoder,
        readout: Readout,
        hidden: Tensor,
        rows: Tensor,
        position: Tensor,
        click: Tensor,
        last_click: Tensor,
        above: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Read L positions in one call of the GRU, all clicks known; empty ones are skipped.

        Args:
            items: makes the item vectors.
            readout: makes the log-odds.
            hidden: [B, H], the state before the first position.
            rows: [B, L] int64 table rows of the items.
            position: [B, L] int64, position of each item in its slate.
            click: [B, L] float.
            last_click: [B, L] int64, `last_click_above` of each slate.
            above: [B, d], vector of the item before the first if it was clicked, else zeros; None =
                zeros.

        Returns:
            log-odds [B, L] for `Readout.finish`, and the hidden states [B, L', H] after the filled
            positions, packed as by `packed_order`.
        """
        order = packed_order(rows != items.empty)
        packed = [gather(t, order) for t in (rows, position, click, last_click)]
        packed_rows, packed_position, packed_click, packed_last = packed
        item = items.vector(packed_rows)
        clicked_above = F.pad(item * packed_click.unsqueeze(-1), (0, 0, 1, 0))[:, :-1]
        if above is not None:
            clicked_above = torch.cat([above.unsqueeze(1), clicked_above[:, 1:]], 1)
        inputs = torch.cat([item + self.position(packed_position), clicked_above], -1)
        states, _ = self.gru(inputs, hidden.unsqueeze(0).contiguous())
        bias = items.bias(packed_rows)
        logits = readout(states, item, bias, packed_position, packed_last)
        return unpack(logits, order, rows.shape[1]), states

    def tables(self, items: ItemEncoder, readout: Readout, rows: Tensor | None = None) -> Tables:
        """Return the products for the table rows `rows` [...], by default for all of them."""
        assert readout.last_click_bias is not None
        vector = items.vector(items.every_row() if rows is None else rows)
        bias = items.bias(items.every_row() if rows is None else rows)
        for_item, for_click = cast(Tensor, self.gru.weight_ih_l0).split(self.item_size, 1)
        return Tables(
            position=F.linear(self.position.weight, for_item),
            last_click=readout.last_click_bias + readout.position_bias.weight,
            shown=F.linear(vector, for_item, cast(Tensor, self.gru.bias_ih_l0)),
            clicked=F.linear(vector, for_click),
            readout=vector @ readout.match.weight + readout.out.weight,
            bias=vector @ readout.match.bias + bias + readout.out.bias,
            finishing=readout.finishing(),
        )

    def recurrent_weights(self) -> tuple[Tensor, Tensor]:
        """Return the weights [3H, H] and bias [3H] that the hidden state meets."""
        return cast(Tensor, self.gru.weight_hh_l0), cast(Tensor, self.gru.bias_hh_l0)

    def inputs(
        self, items: ItemEncoder, readout: Readout, slate: Tensor, tables: Tables | None = None
    ) -> SlateInputs:
        """Return what reading slates [B, S] needs, from `tables` where there are any."""
        rows = items.index(slate).t()
        if tables is None:
            t = self.tables(items, readout, rows)
            shown, clicked, read, bias = t.shown, t.clicked, t.readout, t.bias
        else:
            t = tables
            # F.embedding copies whole rows several times faster than indexing does.
            shown, read = F.embedding(rows, t.shown), F.embedding(rows, t.readout)
            clicked, bias = t.clicked, t.bias[rows]
        s = len(rows)
        filled = rows != items.empty if may_have_gaps(slate) else None
        return SlateInputs(
            rows, items.empty, filled, shown, t.position[:s], clicked, read, bias,
            t.last_click[:s], t.finishing,
        )  # fmt: skip

    def clicked_input(
        self, items: ItemEncoder, rows: Tensor, tables: Tables | None = None
    ) -> Tensor:
        """Return the gate input [B, 3H] of the items `rows` [B] clicked just before a slate."""
        if tables is not None:
            return F.embedding(rows, tables.clicked)
        for_click = cast(Tensor, self.gru.weight_ih_l0)[:, self.item_size :]
        return F.linear(items.vector(rows), for_click)

    def read(
        self,
        inputs: SlateInputs,
        hidden: Tensor,
        above: Tensor | None = None,
        offset: Tensor | None = None,
        *,
        click: Tensor | None = None,
        uniform: Tensor | None = None,
    ) -> Reading:
        """Read one slate; the clicks are given, or drawn from the log-odds position by position.

        Args:
            inputs: of the slate.
            hidden: [B, H] before the slate.
            above: [B, 3H] `clicked_input` of the item before the slate; None = none was clicked.
            offset: [B, S] to add to the log-odds.
            click: [B, S], the given clicks; or
            uniform: [B, S] in [0, 1): a position is clicked where it is below the probability.
        """
        n_positions = inputs.last_click.shape[1] - 1
        last = torch.full_like(inputs.rows[0], n_positions)  # position of the last click; S = none
        bias = inputs.bias if offset is None else inputs.bias + offset.t()
        n_clicks = torch.zeros_like(bias[0])
        choose = (uniform if click is None else click > 0).t().unbind(0)  # type: ignore[union-attr]
        steps = zip(
            inputs.shown.unbind(0), inputs.position.unbind(0), inputs.readout.unbind(0),
            bias.unbind(0), inputs.last_click.unbind(0), choose, strict=False,
        )  # fmt: skip
        logits, clicks, states = [], [], []
        for s, (shown, position, readout, start, by_last_click, chosen) in enumerate(steps):
            x = shown + position if above is None else shown + position + above
            after = self._cell(x, hidden)
            odds = (readout * after).sum(-1) + start + by_last_click[last]
            odds = inputs.finishing.position(s, odds, n_clicks)
            clicked = chosen if click is not None else chosen < odds.sigmoid()
            fed = inputs.after(s, clicked)
            if inputs.filled is not None:  # an empty position changes nothing
                filled = inputs.filled[s]
                clicked = clicked & filled
                after = torch.where(filled.unsqueeze(1), after, hidden)
                if above is not None:
                    fed = torch.where(filled.unsqueeze(1), fed, above)
            last, n_clicks = last.masked_fill(clicked, s), n_clicks + clicked
            hidden, above = after, fed
            logits.append(odds)
            clicks.append(clicked)
            states.append(after)
        return Reading(torch.stack(logits, 1), torch.stack(clicks, 1), states)

    def read_soft(
        self,
        inputs: SlateInputs,
        hidden: Tensor,
        above: Tensor | None = None,
        offset: Tensor | None = None,
        *,
        click_weight: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> Reading:
        """Read one slate with click weights in [0, 1] in place of clicks.

        With the default weight, a position's own probability, the log-odds are approximately
        those with the clicks above averaged out.

        Args:
            inputs: of the slate.
            hidden: [B, H] before the slate.
            above: [B, 3H] `clicked_input` of the item before the slate; None = none was clicked.
            offset: [B, S] to add to the log-odds.
            click_weight: from log-odds [B] to the weight [B] that replaces the click.
        """
        n = inputs.last_click.shape[1]
        # [B, S + 1] how much weight each position has as that of the last click; the last entry is
        # that of no click so far.
        last = F.one_hot(torch.full_like(inputs.rows[0], n - 1), n).to(hidden.dtype)
        bias = inputs.bias if offset is None else inputs.bias + offset.t()
        n_clicks = torch.zeros_like(bias[0])
        logits, weights, states = [], [], []
        for s in range(len(inputs.rows)):
            x = inputs.shown[s] + inputs.position[s]
            x = x if above is None else x + above
            after = self._cell(x, hidden)
            odds = (inputs.readout[s] * after).sum(-1) + bias[s]
            odds = odds + last.to(odds.dtype) @ inputs.last_click[s]
            odds = inputs.finishing.position(s, odds, n_clicks)
            weight = click_weight(odds)
            fed = inputs.after(s, weight)
            if inputs.filled is not None:
                filled = inputs.filled[s]
                weight = weight * filled
                after = torch.where(filled.unsqueeze(1), after, hidden)
                if above is not None:
                    fed = torch.where(filled.unsqueeze(1), fed, above)
            here = F.one_hot(torch.tensor(s, device=odds.device), n)
            last = weight.unsqueeze(1) * here + (1 - weight.unsqueeze(1)) * last
            hidden, above, n_clicks = after, fed, n_clicks + weight
            logits.append(odds)
            weights.append(weight)
            states.append(after)
        return Reading(torch.stack(logits, 1), torch.stack(weights, 1), states)

    def _cell(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the next hidden state [B, H] for gate inputs x [B, 3H], as `nn.GRU` defines it."""
        size = self.hidden_size
        gates = F.linear(hidden, *self.recurrent_weights())
        x_gates, x_candidate = x.split([2 * size, size], 1)
        h_gates, h_candidate = gates.split([2 * size, size], 1)
        reset, update = (x_gates + h_gates).sigmoid().split(size, 1)
        candidate = torch.addcmul(x_candidate, reset, h_candidate).tanh()
        return torch.lerp(candidate, hidden, update)


def last_row_if_clicked(rows: Tensor, click: Tensor, empty: int, before: Tensor) -> Tensor:
    """Return the table row [B] of the last item of a slate if it was clicked, else `empty`.

    Args:
        rows: [B, S] int64 table rows.
        click: [B, S].
        empty: the row of the empty position.
        before: [B] int64, what is returned for users whose slate is empty.
    """
    index = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
    last = index.masked_fill(rows == empty, -1).amax(1, keepdim=True)
    row = rows.gather(1, last.clamp(min=0))
    clicked = click.gather(1, last.clamp(min=0)) > 0
    return torch.where(last >= 0, torch.where(clicked, row, empty), before.unsqueeze(1)).squeeze(1)


def may_have_gaps(slate: Tensor) -> bool:
    """Return whether `slate` may have empty positions, which need masks.

    On a GPU the answer is always yes: looking at the values would synchronise.
    """
    return slate.device.type != "cpu" or bool((slate < 0).any())
