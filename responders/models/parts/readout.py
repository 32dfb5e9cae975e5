"""From a hidden state and an item to the log-odds of a click."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.log.counts import position_log_odds
from responders.log.session_log import SessionLog

STEP = 10.0
"""Factor of the few weights that say how the explicit effects extrapolate: Adam moves every weight
by about as much in a step, and these must be found before a network imitates them."""


class Readout(nn.Module):
    """Log-odds of a click: w·h + e·Qh + item bias + position bias, h a hidden state of H numbers.

    For a responder that reads the clicks above, the position bias also depends on the position of
    the last click, as in the user browsing model (`UBM`): a table that a recurrent state would
    take long to learn. Each click above adds the same to the log-odds; where clicks are not read,
    each item above adds it times its own probability.

    With `examination` the probability of a click is that of attraction times the chance that the
    position is looked at (the examination hypothesis, Craswell et al., 2008): an item that attracts
    more than any in the log is not clicked more often than its position is looked at.

    In training, a share `dropout` of the rows is scored without h, so that what is explicit (the
    biases, and what a `SessionContext` adds) explains the clicks as well as it can alone and h adds
    the rest. Otherwise h learns what the logging policy reveals: it shows a user what the user
    likes, so slates tell of tastes in the log, but not under another policy.

    Args:
        size: d of the item vectors.
        n_positions: S.
        hidden_size: H.
        reads_clicks_above: whether clicks above are given.
        examination: whether to bound the probability.
        dropout: share of rows that are scored without h in training.
    """

    def __init__(
        self,
        size: int,
        n_positions: int,
        hidden_size: int,
        reads_clicks_above: bool,
        examination: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.position_bias = nn.Embedding(n_positions, 1)
        self.last_click_bias = self.looked_at = None
        if reads_clicks_above:
            self.last_click_bias = nn.Parameter(torch.zeros(n_positions, n_positions + 1))
        self.click_bias = nn.Parameter(torch.zeros(()))
        if examination:  # log-odds that a position is looked at; at first .88
            self.looked_at = nn.Parameter(torch.full((n_positions,), 2.0 / STEP))
        self.dropout = dropout
        self.match = nn.Linear(hidden_size, size)
        self.out = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.position_bias.weight)

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start from the training click rates by position."""
        with torch.no_grad():
            self.position_bias.weight.copy_(position_log_odds(log, sessions).unsqueeze(1))
            self.out.bias.zero_()

    def forward(
        self,
        hidden: Tensor,
        item: Tensor,
        item_bias: Tensor,
        position: Tensor,
        last_click: Tensor | None = None,
    ) -> Tensor:
        """Return log-odds [...]; see `finish` for what they still lack.

        Args:
            hidden: [..., H].
            item: [..., d] vectors.
            item_bias: [...].
            position: [...] int64.
            last_click: [...] int64 position of the last click above in the slate, S = none.
        """
        if self.training and self.dropout:
            rows = torch.rand(len(hidden), *[1] * (hidden.ndim - 1), device=hidden.device)
            hidden = hidden * (rows >= self.dropout)
        bias = item_bias + self.position_bias(position).squeeze(-1)
        if last_click is not None:
            assert self.last_click_bias is not None
            bias = bias + self.last_click_bias[position, last_click]
        return self.out(hidden).squeeze(-1) + (self.match(hidden) * item).sum(-1) + bias

    def finishing(self) -> Finishing:
        """Return what finishes log-odds, computed from the weights as they are."""
        per_click = STEP * self.click_bias
        if self.looked_at is None:
            return Finishing(per_click, None)
        log_odds = STEP * self.looked_at
        return Finishing(per_click, Bounds(F.logsigmoid(log_odds), F.logsigmoid(-log_odds)))

    def finish(self, log_odds: Tensor, shown: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [..., S] with the clicks above counted, bounded by the examination.

        Args:
            log_odds: [..., S] of attraction.
            shown: [..., S] bool, False at empty positions.
            click: [..., S]; None where clicks are not read: then the probabilities that the items
                would have without clicks above are counted.
        """
        return self.bound(self.count(log_odds, shown, click))

    def count(self, log_odds: Tensor, shown: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [..., S] with the clicks above counted; see `finish`."""
        click = self.bound(log_odds).sigmoid() if click is None else click
        click = click.to(log_odds.dtype) * shown
        return log_odds + self.finishing().per_click * (click.cumsum(-1) - click)

    def bound(self, log_odds: Tensor) -> Tensor:
        """Return log-odds [..., S] of attraction, bounded by the examination."""
        bounds = self.finishing().bounds
        return log_odds if bounds is None else bounds[: log_odds.shape[-1]](log_odds)


@dataclass(frozen=True)
class Bounds:
    """The chances e that positions are looked at, which bound the probabilities of clicks."""

    log_looked: Tensor  # [S] log e
    log_missed: Tensor  # [S] log(1 - e)

    def __getitem__(self, positions: int | slice) -> Bounds:
        """Return the bounds of some positions."""
        return Bounds(self.log_looked[positions], self.log_missed[positions])

    def __call__(self, log_odds: Tensor) -> Tensor:
        """Return the log-odds of the probability e · sigmoid(log_odds)."""
        return log_odds + self.log_looked - F.softplus(log_odds + self.log_missed)


class Finishing(NamedTuple):
    """What the log-odds of attraction lack, for reading a slate position by position."""

    per_click: Tensor  # scalar log-odds for each click above
    bounds: Bounds | None  # None = nothing is bounded

    def position(self, s: int, log_odds: Tensor, n_clicks: Tensor) -> Tensor:
        """Return the log-odds [B] of a click at position `s` after `n_clicks` [B] above."""
        log_odds = log_odds + self.per_click * n_clicks
        return log_odds if self.bounds is None else self.bounds[s](log_odds)
