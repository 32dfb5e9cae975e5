"""Packing sessions with empty positions, so that parallel evaluation equals stepping."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def positions_of(slate: Tensor) -> Tensor:
    """Return the position (int64, from 0) of each entry of slates [..., S]."""
    return torch.arange(slate.shape[-1], device=slate.device).expand(slate.shape)


def packed_order(filled: Tensor) -> Tensor:
    """Return the order [B, L'] int64 that puts the filled positions of [B, L] first.

    L' is the largest number of filled positions in a row, at least 1. `gather(x, order)` drops
    positions that are empty in every row.
    """
    order = torch.argsort(~filled, dim=1, stable=True)
    return order[:, : max(int(filled.sum(1).max()), 1)]


def gather(x: Tensor, order: Tensor) -> Tensor:
    """Return x [B, L, ...] in the order [B, L']."""
    index: Any = order.view(*order.shape, *[1] * (x.ndim - 2)).expand(*order.shape, *x.shape[2:])
    return x.gather(1, index)


def unpack(x: Tensor, order: Tensor, length: int) -> Tensor:
    """Return the inverse of `gather` for x [B, L', ...]: [B, length, ...], zero where dropped."""
    index: Any = order.view(*order.shape, *[1] * (x.ndim - 2)).expand(x.shape)
    return x.new_zeros(len(x), length, *x.shape[2:]).scatter(1, index, x)


def last_click_above(click: Tensor, none: int) -> Tensor:
    """Return the position of the last click above each position, or `none`: [..., S] int64."""
    last = torch.where(click > 0, positions_of(click), -1).cummax(-1).values
    last = F.pad(last, (1, 0), value=-1)[..., :-1]
    return torch.where(last < 0, none, last)


def states_before_slates(states: Tensor, first: Tensor, filled: Tensor) -> Tensor:
    """Return the state before each slate, [B, R, H].

    Args:
        states: [B, L', H], after each filled position in packed order.
        first: [B, H], before the session.
        filled: [B, R, S] bool.
    """
    n_before = filled.sum(2).cumsum(1) - filled.sum(2)
    return gather(torch.cat([first.unsqueeze(1), states], 1), n_before)


def last_item_if_clicked(item: Tensor, click: Tensor, filled: Tensor) -> Tensor:
    """Return the vector [B, R, d] of the last item shown before each slate, zero if not clicked.

    Args:
        item: [B, R·S, d] vectors.
        click: [B, R·S] float.
        filled: [B, R, S] bool.
    """
    b, r, s = filled.shape
    index = torch.arange(r * s, device=item.device).expand(b, r * s)
    last = torch.where(filled.view(b, r * s), index, -1).cummax(1).values.view(b, r, s)[..., -1]
    last = F.pad(last, (1, 0), value=-1)[:, :-1]
    vector = gather(item * click.unsqueeze(-1), last.clamp(min=0))
    return vector * (last >= 0).unsqueeze(-1)


def slates_before(filled: Tensor) -> Tensor:
    """Return the number of slates with an item before each slate: [B, R] int64 of [B, R, S]."""
    has_item = filled.any(2)
    return has_item.cumsum(1) - has_item.long()
