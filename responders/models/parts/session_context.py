"""What happened so far in a session, as five numbers that every neural responder uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.log.batch import SessionBatch


class SessionContext(nn.Module):
    """Log-odds that all positions of a slate gain or lose by what happened before it.

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
