"""Ragged sessions of a log as padded tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from responders.catalogue import EMPTY
from responders.log import SessionLog


@dataclass(frozen=True)
class SessionBatch:
    """B sessions of up to R slates of S positions.

    Args:
        slate: [B, R, S] int64 catalogue indices, -1 = empty position or padding.
        click: [B, R, S] float32, 0 or 1.
        user: [B, F] float32 user features; F may be 0.
        length: [B] int64 slates in each session.
    """

    slate: Tensor
    click: Tensor
    user: Tensor
    length: Tensor

    @property
    def shown(self) -> Tensor:
        """[B, R, S] bool, True where an item was shown."""
        return self.slate >= 0

    def to(self, device: torch.device | str) -> SessionBatch:
        """Return the batch on `device`."""
        tensors = (self.slate, self.click, self.user, self.length)
        return SessionBatch(*(t.to(device, non_blocking=True) for t in tensors))


def make_batch(log: SessionLog, sessions: np.ndarray) -> SessionBatch:
    """Return the `sessions` (indices) of `log` as one padded batch."""
    start, length = log.session_start[sessions], log.session_length[sessions]
    step = np.arange(length.max())
    inside = step < length[:, None]
    rows = np.where(inside, start[:, None] + step, start[:, None])
    slate = np.where(inside[..., None], log.slate[rows], EMPTY)
    click = np.where(inside[..., None], log.response[rows], 0)
    return SessionBatch(
        slate=torch.from_numpy(slate.astype(np.int64)),
        click=torch.from_numpy(click.astype(np.float32)),
        user=torch.from_numpy(log.users.features[log.user[sessions]]),
        length=torch.from_numpy(length),
    )


def plan_batches(
    log: SessionLog, sessions: np.ndarray, size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Group `sessions` into batches of `size` of like length, so that little is padded.

    With `rng` both the ties of length and the order of the batches are shuffled.
    """
    if rng is not None:
        sessions = rng.permutation(sessions)
        noise = rng.uniform(-0.1, 0.1, len(sessions))  # not always the same neighbours
    else:
        noise = np.zeros(len(sessions))
    order = np.argsort(log.session_length[sessions] * (1 + noise), kind="stable")
    groups = [sessions[order[i : i + size]] for i in range(0, len(order), size)]
    if rng is not None:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    return groups
