"""What happened so far in a session, in a few numbers that every neural responder may use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from responders.log.batch import SessionBatch
from responders.models.state import State

_KEY = "so_far"


class SessionContext(nn.Module):
    """Log-odds that a whole slate gains or loses by what happened before it.

    A linear function, zero at first, of: whether there was a slate before, its fruitless slates in
    a row, the slates and the clicks so far (as log(1 + n)), and the share of slates with a click.
    A user who found nothing twice clicks less, whatever is shown; a recurrent state can learn that
    too, but needs far more sessions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(5, 1, bias=False)
        nn.init.zeros_(self.weight.weight)

    def start(self, user: Tensor) -> State:
        """Return the counts of new users: slates, slates in a row without click, clicks, slates
        with a click, [B, 4]."""
        return {_KEY: user.new_zeros(len(user), 4)}

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the counts after clicks [B, S] on a slate [B, S]; an empty one does not count."""
        slates, streak, clicks, fruitful = state[_KEY].unbind(1)
        new = click.to(slates.dtype).sum(1)
        seen, some = (slate >= 0).any(1).to(slates.dtype), (new > 0).to(slates.dtype)
        counts = [slates + seen, (streak + seen) * (1 - some), clicks + new, fruitful + some]
        return {_KEY: torch.stack(counts, 1)}

    def forward(self, state: State) -> Tensor:
        """Return log-odds [B, 1] to add to every position of the next slate."""
        return self.weight(_features(state[_KEY]))

    def parallel(self, batch: SessionBatch) -> Tensor:
        """Return log-odds [B, R, 1] to add to every position of each slate."""
        seen, clicks = batch.shown.any(2), batch.click.sum(2)
        some = clicks > 0
        slates = seen.cumsum(1)
        reset = torch.where(some, slates, 0).cummax(1).values  # slates up to the last fruitful one
        after = torch.stack([slates, slates - reset, clicks.cumsum(1), some.cumsum(1)], -1)
        before = nn.functional.pad(after.to(batch.click.dtype), (0, 0, 1, 0))[:, :-1]
        return self.weight(_features(before))


def _features(counts: Tensor) -> Tensor:
    slates, streak, clicks, fruitful = counts.unbind(-1)
    some = (slates > 0).to(counts.dtype)
    share = fruitful / slates.clamp(min=1)
    return torch.stack([some, streak.log1p(), slates.log1p(), clicks.log1p(), share], -1)
