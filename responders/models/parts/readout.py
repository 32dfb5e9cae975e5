"""From a hidden state and an item to the log-odds of a click."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from responders.log.counts import position_log_odds
from responders.log.session_log import SessionLog


class Readout(nn.Module):
    """Log-odds of a click: w·h + e·Qh + item bias + position bias, h a hidden state of H numbers.

    For a responder that reads the clicks above, the position bias also depends on the position of
    the last click, as in the user browsing model (`UBM`): a table that a recurrent state would
    take long to learn.

    Args:
        size: d of the item vectors.
        n_positions: S.
        hidden_size: H.
        reads_clicks_above: whether `last_click` is given.
    """

    def __init__(
        self, size: int, n_positions: int, hidden_size: int, reads_clicks_above: bool
    ) -> None:
        super().__init__()
        self.position_bias = nn.Embedding(n_positions, 1)
        self.last_click_bias = None
        if reads_clicks_above:
            self.last_click_bias = nn.Parameter(torch.zeros(n_positions, n_positions + 1))
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
        """Return log-odds [...].

        Args:
            hidden: [..., H].
            item: [..., d] vectors.
            item_bias: [...].
            position: [...] int64.
            last_click: [...] int64 position of the last click above in the slate, S = none.
        """
        bias = item_bias + self.position_bias(position).squeeze(-1)
        if last_click is not None:
            assert self.last_click_bias is not None
            bias = bias + self.last_click_bias[position, last_click]
        return self.out(hidden).squeeze(-1) + (self.match(hidden) * item).sum(-1) + bias
