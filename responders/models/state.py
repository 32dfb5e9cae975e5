"""The state of B simulated users: nested dictionaries and lists of tensors, each with B first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

State = dict[str, Any]
"""What a responder remembers of B users; the leaves are tensors with B first."""


def take_rows(state: State, rows: Tensor) -> State:
    """Return the users `rows` (int64 indices or a bool mask) of a state."""
    if rows.dtype == torch.bool:
        return tree_map(lambda value: value[rows], state)
    return tree_map(lambda value: value.index_select(0, rows), state)  # faster than value[rows]


def put_rows(state: State, mask: Tensor, fresh: State) -> State:
    """Return `state` with the users of `mask` [B] bool replaced by those of `fresh`, also of B.

    A memory that grows with the session ([B, L, ...], latest last) is padded at its front to the
    longer of the two.
    """

    def choose(old: Tensor, new: Tensor) -> Tensor:
        old, new = _equally_long(old, new)
        return torch.where(mask.view(-1, *[1] * (old.ndim - 1)), new, old)

    return tree_map(choose, state, fresh)


def copy_rows(state: State, rows: Tensor, fresh: State) -> State:
    """Return `state` with the users `rows` [n] int64 replaced by those of `fresh`, of n users."""

    def copied(old: Tensor, new: Tensor) -> Tensor:
        old, new = _equally_long(old, new)
        return old.index_copy(0, rows, new)

    return tree_map(copied, state, fresh)


def may_count(mask: Tensor) -> bool:
    """Return whether the entries of a mask can be counted without synchronising with a device."""
    return mask.device.type == "cpu"


def _equally_long(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    if old.shape[1:] == new.shape[1:]:
        return old, new
    longest = max(old.shape[1], new.shape[1])
    return _padded(old, longest), _padded(new, longest)


def _padded(memory: Tensor, length: int) -> Tensor:
    return F.pad(memory, (0, 0) * (memory.ndim - 2) + (length - memory.shape[1], 0))
