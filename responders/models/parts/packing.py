"""What all neural responders share: item vectors, the readout, and the next-click head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def compact(filled: Tensor) -> Tensor:
    """Return the order [B, L'] int64 that puts the filled places [B, L] first, L' the most filled.

    Gathering by it drops what is empty in every row; `scatter_back` undoes it.
    """
    order = torch.argsort(~filled, dim=1, stable=True)
    return order[:, : max(int(filled.sum(1).max()), 1)]


def last_click(click: Tensor, none: int) -> Tensor:
    """Return the position of the last click above each, or `none`: [..., S] of [..., S]."""
    place = torch.arange(click.shape[-1], device=click.device)
    last = torch.where(click > 0, place, -1).cummax(-1).values
    last = nn.functional.pad(last, (1, 0), value=-1)[..., :-1]
    return torch.where(last < 0, none, last)


def gather(x: Tensor, order: Tensor) -> Tensor:
    """Return x [B, L, ...] in the order [B, L']."""
    index: Any = order.view(*order.shape, *[1] * (x.ndim - 2)).expand(*order.shape, *x.shape[2:])
    return x.gather(1, index)


def before(states: Tensor, first: Tensor, filled: Tensor) -> Tensor:
    """Return the state before each slate [B, R, H], of states after each filled position.

    Args:
        states: [B, L, H] in compact order.
        first: [B, H] the state before the session.
        filled: [B, R, S] bool.
    """
    n_before = filled.sum(2).cumsum(1) - filled.sum(2)
    states = torch.cat([first.unsqueeze(1), states], 1)
    return gather(states, n_before)


def last_clicked(item: Tensor, click: Tensor, filled: Tensor) -> Tensor:
    """Return the vector [B, R, d] of the last item shown before each slate, zero if not clicked.

    Args:
        item: [B, R·S, d] vectors.
        click: [B, R·S] float.
        filled: [B, R, S] bool.
    """
    b, r, s = filled.shape
    flat = filled.view(b, r * s)
    place = torch.arange(r * s, device=item.device).expand(b, r * s)
    last = torch.where(flat, place, -1).cummax(1).values.view(b, r, s)[..., -1]
    last = nn.functional.pad(last, (1, 0), value=-1)[:, :-1]
    index = last.clamp(min=0)
    vector = (item * click.unsqueeze(-1)).gather(
        1, index.unsqueeze(-1).expand(-1, -1, item.shape[-1])
    )
    return vector * (last >= 0).unsqueeze(-1)


def slate_numbers(filled: Tensor) -> Tensor:
    """Return how many slates with an item came before each slate, [B, R] int64, of [B, R, S]."""
    some = filled.any(2)
    return some.cumsum(1) - some.long()
