"""What all neural responders share: item vectors, the readout, and the next-click head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from responders.log.counts import position_log_odds
from responders.log.session_log import SessionLog


class Readout(nn.Module):
    """Log-odds of a click: w·h + e·Qh + item bias + position bias, h a hidden state of H numbers.

    The position bias of a responder that reads the clicks above depends on the last one too, as in
    the user browsing model (`UBM`): a table that a recurrent state would take long to learn.

    Args:
        size: d of the item vectors.
        n_positions: S.
        hidden_size: H.
        reads_clicks_above: whether `last` is given.
    """

    def __init__(
        self, size: int, n_positions: int, hidden_size: int, reads_clicks_above: bool
    ) -> None:
        super().__init__()
        self.position_bias = nn.Embedding(n_positions, 1)
        self.after = None
        if reads_clicks_above:
            self.after = nn.Parameter(torch.zeros(n_positions, n_positions + 1))
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
        place: Tensor,
        last: Tensor | None = None,
    ) -> Tensor:
        """Return log-odds [...].

        Args:
            hidden: [..., H].
            item: [..., d] vectors.
            item_bias: [..., 1].
            place: [...] int64 position in the slate.
            last: [...] int64 position of the last click above in the slate, S = none.
        """
        logits = (self.match(hidden) * item).sum(-1) + self.out(hidden).squeeze(-1)
        if last is not None and self.after is not None:
            logits = logits + self.after[place, last]
        return logits + (item_bias + self.position_bias(place)).squeeze(-1)
