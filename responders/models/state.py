"""Responder: the contract of every simulated user.

A responder has four verbs. `start` makes the state of B users, `logits` says how likely they are
to click each item of a slate, `respond` draws their clicks, `observe` moves the state on. `forward`
evaluates whole sessions at once and equals stepping through them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
"""What a responder remembers of B users: named tensors, each with B first."""


def take_rows(state: State, rows: Tensor) -> State:
    """Return the users `rows` (indices or a mask) of a state."""
    return {name: value[rows] for name, value in state.items()}


def put_rows(state: State, mask: Tensor, fresh: State) -> State:
    """Return `state` with the users of `mask` [B] bool replaced by those of `fresh`, also [B].

    A memory that grows with the session ([B, L, ...], the latest last) is padded in front to the
    longer of the two.
    """

    def choose(old: Tensor, new: Tensor) -> Tensor:
        old, new = _as_long(old, new)
        return torch.where(mask.view(-1, *[1] * (old.ndim - 1)), new, old)

    return {name: choose(value, fresh[name]) for name, value in state.items()}


def put_at(state: State, rows: Tensor, fresh: State) -> State:
    """Return `state` with the users `rows` [n] int64 replaced by those of `fresh`, [n]."""

    def place(old: Tensor, new: Tensor) -> Tensor:
        old, new = _as_long(old, new)
        return old.index_copy(0, rows, new)

    return {name: place(value, fresh[name]) for name, value in state.items()}


def _as_long(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return both, a memory that grows with the session padded in front to the longer one."""
    if old.shape[1:] == new.shape[1:]:
        return old, new
    longest = max(old.shape[1], new.shape[1])
    pads = ((0, 0) * (t.ndim - 2) + (longest - t.shape[1], 0) for t in (old, new))
    old, new = (F.pad(t, pad) for t, pad in zip((old, new), pads, strict=True))
    return old, new
