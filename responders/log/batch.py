"""Ragged sessions of a log as padded tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from responders.log.catalogue import EMPTY
from responders.log.session_log import SessionLog


@dataclass(frozen=True)
class Part:
    """K sessions of a log, and which of their slates are history and which are counted.

    Args:
        sessions: [K] int64 session indices.
        first: [K] int64, the first counted slate; those before it are only history.
        end: [K] int64, the end of the counted slates; later ones are not read.
    """

    sessions: np.ndarray
    first: np.ndarray
    end: np.ndarray

    @staticmethod
    def of(log: SessionLog, sessions: np.ndarray, context: float = 0.0) -> Part:
        """Return whole `sessions`; the first ⌊context · R⌋ of their R slates are history."""
        length = log.session_length[sessions]
        return Part(sessions, np.floor(context * length + 1e-9).astype(np.int64), length)

    def __len__(self) -> int:
        return len(self.sessions)

    def take(self, rows: np.ndarray) -> Part:
        """Return the sessions at `rows` (indices) of this part."""
        return Part(self.sessions[rows], self.first[rows], self.end[rows])


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


def make_batch(log: SessionLog, part: Part) -> SessionBatch:
    """Return the sessions of `part` as one padded batch."""
    start, length = log.session_start[part.sessions], part.end
    step = np.arange(length.max())
    exists = step < length[:, None]
    slate_row = np.where(exists, start[:, None] + step, start[:, None])
    slate = np.where(exists[..., None], log.slate[slate_row], EMPTY)
    click = np.where(exists[..., None], log.response[slate_row], 0)
    return SessionBatch(
        slate=torch.from_numpy(slate.astype(np.int64)),
        click=torch.from_numpy(click.astype(np.float32)),
        user=torch.from_numpy(log.users.features[log.user[part.sessions]]),
        length=torch.from_numpy(length),
    )


def plan_batches(part: Part, size: int, rng: np.random.Generator | None = None) -> list[Part]:
    """Group the sessions of `part` into batches of similar length, to reduce padding.

    With `rng`, sessions are shuffled among similar lengths, and so is the order of the batches.
    """
    noise = np.zeros(len(part))
    if rng is not None:
        part = part.take(rng.permutation(len(part)))
        noise = rng.uniform(-0.1, 0.1, len(part))  # so that batches differ between epochs
    order = np.argsort(part.end * (1 + noise), kind="stable")
    groups = [part.take(order[i : i + size]) for i in range(0, len(order), size)]
    if rng is not None:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    return groups
