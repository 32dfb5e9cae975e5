"""Repetition and forgetting: the base-level activation of items that the user clicked before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.log.batch import SessionBatch
from responders.models.parts.packing import gather, packed_order, slates_before
from responders.models.parts.readout import STEP
from responders.models.state import State

REMEMBERED = 64
"""Clicks back that the activation reaches."""
CHUNK = 16
"""Slates of a session that `Activation.parallel` treats at a time."""


class Activation(nn.Module):
    """Log-odds that an item gains because the user clicked it before.

    The base-level activation of ACT-R (Anderson & Schooler, 1991; PISA, arXiv 2408.16578) is the
    log of a = Σ (t - t_k)^-d over the slates t_k in which the user clicked the item: it grows with
    each click and is forgotten by a power law. The item gains w·log(1 + e^b·a): nothing if it was
    never clicked, about w·(b + log a) if it was. Strength w, offset b and decay d are learned;
    w may be negative. What associates different items with each other is the part of `UserMatch`.

    The state holds the last `REMEMBERED` clicked items, [B, W], and how many slates ago each was
    clicked: it does not grow with the session or the number of items.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.zeros(()))
        self.forgetting = nn.Parameter(torch.tensor(-0.433 / STEP))  # d = .5, as usual in ACT-R

    @property
    def decay(self) -> Tensor:
        """The exponent d > 0 of the power law of forgetting."""
        return F.softplus(STEP * self.forgetting)

    def start(self, user: Tensor) -> State:
        """Return the state of new users with features [B, F]."""
        shape = len(user), REMEMBERED
        return {
            "item": torch.full(shape, -1, device=user.device),
            "age": torch.ones(shape, dtype=torch.int64, device=user.device),
        }

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after clicks [B, S] on a slate [B, S]; an empty one changes nothing."""
        seen = (slate >= 0).any(1, keepdim=True)
        item = torch.cat([state["item"], torch.where(click > 0, slate, -1)], 1)
        age = torch.cat([state["age"] + seen, torch.ones_like(slate)], 1)
        # The sort is stable: what was not clicked goes to the front, and is cut off there first.
        order = torch.argsort((item >= 0).to(torch.uint8), dim=1, stable=True)[:, -REMEMBERED:]
        return {"item": item.gather(1, order), "age": age.gather(1, order)}

    def forward(self, state: State, slate: Tensor) -> Tensor:
        """Return the log-odds [B, S] to add to a slate [B, S]."""
        weight = self._left(state["age"]).unsqueeze(1)
        return self._gain(slate.unsqueeze(1), state["item"], weight).squeeze(1)

    def parallel(self, batch: SessionBatch) -> Tensor:
        """Return the log-odds [B, R, S] to add to every slate of `batch`.

        Slates are treated `CHUNK` at a time: memory grows with the clicks, not with their square.
        """
        b, r, s = batch.slate.shape
        number, clicked = slates_before(batch.shown), (batch.click > 0) & batch.shown
        order = packed_order(clicked.view(b, r * s))
        item = gather(batch.slate.view(b, r * s), order)
        clicked_at = gather(number.repeat_interleave(s, 1), order)
        n_before = clicked.sum(2).cumsum(1) - clicked.sum(2)
        parts = []
        for first in range(0, r, CHUNK):
            part = slice(first, first + CHUNK)
            n = max(int(n_before[:, part].max()), 1)
            back = n_before[:, part].unsqueeze(2) - torch.arange(n, device=item.device)
            age = number[:, part].unsqueeze(2) - clicked_at[:, None, :n]
            remembered = (back >= 1) & (back <= REMEMBERED)
            weight = torch.where(remembered, self._left(age.clamp(min=1)), 0.0)
            parts.append(self._gain(batch.slate[:, part], item[:, :n], weight))
        return torch.cat(parts, 1)

    def _left(self, age: Tensor) -> Tensor:
        """Return what is left [...] of a click `age` [...] slates ago: age^-d."""
        return torch.exp(-self.decay * age.to(self.strength.dtype).log())

    def _gain(self, slate: Tensor, item: Tensor, weight: Tensor) -> Tensor:
        """Return the log-odds [B, R, S] of slates, for clicks on `item` [B, C].

        `weight` [B, R, C] says how much of each click is left at each slate.
        """
        same = (slate.unsqueeze(3) == item[:, None, None]) & (slate >= 0).unsqueeze(3)
        total = (same.to(weight.dtype) @ weight.unsqueeze(3)).squeeze(3)
        return STEP * self.strength * torch.log1p(self.offset.exp() * total)
