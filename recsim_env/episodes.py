"""The state of a world: one running episode for each of B users."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from responders.models.state import State, copy_rows, put_rows


@dataclass(frozen=True)
class Episodes:
    """The episodes of B users; every tensor has B first.

    Args:
        user: [B] int64, index of the user in the population.
        step: [B] int64, slates answered in the episode.
        visit: [B] int64, number of the visit, from 0.
        visit_step: [B] int64, slates answered in the visit.
        visit_clicks: [B] int64, clicks in the visit.
        streak: [B] int64, slates of the visit in a row without a click.
        gap: [B] float32, seconds between the previous visit and this one; 0 in the first.
        slates: [B, H, S] int32, the last H slates, oldest first, -1 = nothing.
        clicks: [B, H, S] bool, what was clicked of them.
        memory: the responder's state.
        member: [B] int64, the member of an ensemble that answers for each user; None = their mean.
    """

    user: Tensor
    step: Tensor
    visit: Tensor
    visit_step: Tensor
    visit_clicks: Tensor
    streak: Tensor
    gap: Tensor
    slates: Tensor
    clicks: Tensor
    memory: State
    member: Tensor | None = None

    def where(self, mask: Tensor, other: Episodes) -> Episodes:
        """Return these episodes, with those of `other` for the users of `mask` [B] bool."""
        chosen: dict[str, Any] = {}
        for field in fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, dict):
                chosen[field.name] = put_rows(mine, mask, others)
            elif mine is not None:
                chosen[field.name] = torch.where(
                    mask.view(-1, *[1] * (mine.ndim - 1)), others, mine
                )
        return Episodes(**chosen)

    def copied(self, rows: Tensor, fresh: Episodes) -> Episodes:
        """Return the episodes with those of the users `rows` [n] int64 replaced by `fresh`, of n.

        For few users it takes a third of the time of `where`, but finding them on a GPU would
        synchronise.
        """
        chosen: dict[str, Any] = {}
        for field in fields(self):
            mine, others = getattr(self, field.name), getattr(fresh, field.name)
            if isinstance(mine, dict):
                chosen[field.name] = copy_rows(mine, rows, others)
            elif mine is not None:
                chosen[field.name] = mine.index_copy(0, rows, others)
        return Episodes(**chosen)

    def answered(self, slate: Tensor, click: Tensor, memory: State) -> Episodes:
        """Return the episodes after users answered `slate` [B, S] with `click` [B, S]."""
        n_clicks = click.sum(1)
        return replace(
            self,
            step=self.step + 1,
            visit_step=self.visit_step + 1,
            visit_clicks=self.visit_clicks + n_clicks,
            streak=(self.streak + 1) * (n_clicks == 0),
            slates=torch.cat([self.slates[:, 1:], slate.int().unsqueeze(1)], 1),
            clicks=torch.cat([self.clicks[:, 1:], click.unsqueeze(1)], 1),
            memory=memory,
        )

    def new_visit(self, mask: Tensor, gap: Tensor, fresh: Episodes) -> Episodes:
        """Return the episodes with a new visit opened by the users of `mask` [B] bool.

        Args:
            mask: users who come back.
            gap: [B] float32, seconds since the visit before.
            fresh: new episodes of the same users, whose memory and counters a visit starts from.
        """
        opened = replace(
            self,
            visit=self.visit + 1,
            visit_step=fresh.visit_step,
            visit_clicks=fresh.visit_clicks,
            streak=fresh.streak,
            gap=gap,
            memory=fresh.memory,
        )
        return self.where(mask, opened)
