"""Ragged sessions of a log as padded tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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

    def take(self, rows: np.ndarray | slice) -> Part:
        """Return the sessions at `rows` (indices or a slice) of this part."""
        return Part(self.sessions[rows], self.first[rows], self.end[rows])

    def sample(self, most: int) -> Part:
        """Return all sessions, or every k-th, so that at most `most` are left."""
        return self.take(slice(None, None, -(-len(self) // most) or 1))


@dataclass(frozen=True)
class SessionBatch:
    """B sessions of up to R slates of S positions.

    Args:
        slate: [B, R, S] int64 catalogue indices, -1 = empty position or padding.
        click: [B, R, S] float32, 0 or 1.
        user: [B, F] float32 user features; F may be 0.
        length: [B] int64 slates in each session.
        weight: [B, R, S] float32, of each position in the training loss; None = 1.
        whole: the batch that these sessions are a share of; None = they are all.
    """

    slate: Tensor
    click: Tensor
    user: Tensor
    length: Tensor
    weight: Tensor | None = None
    whole: SessionBatch | None = None

    @property
    def shown(self) -> Tensor:
        """[B, R, S] bool, True where an item was shown."""
        return self.slate >= 0

    @property
    def click_rate(self) -> Tensor:
        """[] float32, clicks per shown item of the whole batch."""
        batch = self.whole or self
        return batch.click[batch.shown].mean().to(self.click.device)

    def share(self, index: int, count: int) -> SessionBatch:
        """Return every `count`-th session, from the one at `index` on."""
        rows = self._each(lambda tensor: tensor[index::count].contiguous())
        return replace(rows, whole=self)

    def _each(self, change: Callable[[Tensor], Tensor]) -> SessionBatch:
        return SessionBatch(
            slate=change(self.slate),
            click=change(self.click),
            user=change(self.user),
            length=change(self.length),
            weight=None if self.weight is None else change(self.weight),
            whole=self.whole,
        )

    def to(self, device: torch.device | str) -> SessionBatch:
        """Return the batch on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))


def make_batch(log: SessionLog, part: Part, ips_clip: float = 0.0) -> SessionBatch:
    """Return the sessions of `part` as one padded batch.

    Args:
        log: the log.
        part: the sessions.
        ips_clip: weight positions by `inverse_propensity`, by at most this; 0 = no weights.
    """
    start, length = log.session_start[part.sessions], part.end
    step = np.arange(length.max())
    exists = step < length[:, None]
    slate_row = np.where(exists, start[:, None] + step, start[:, None])
    slate = np.where(exists[..., None], log.slate[slate_row], EMPTY)
    click = np.where(exists[..., None], log.response[slate_row], 0)
    weight = None
    if ips_clip:
        assert log.propensity is not None
        n = len(log.catalogue)
        weight = inverse_propensity(log.propensity[slate_row], slate != EMPTY, n, ips_clip)
    return SessionBatch(
        slate=torch.from_numpy(slate.astype(np.int64)),
        click=torch.from_numpy(click.astype(np.float32)),
        user=torch.from_numpy(log.users.features[log.user[part.sessions]]),
        length=torch.from_numpy(length),
        weight=None if weight is None else torch.from_numpy(weight),
    )


def inverse_propensity(
    propensity: np.ndarray, shown: np.ndarray, n_items: int, clip: float
) -> np.ndarray:
    """Return clipped, self-normalised inverse propensities [...] float32.

    The weight of a position is the chance 1 / N that a uniform policy shows the item there, over
    the logged propensity, at most `clip` (Schnabel et al., ICML 2016); then weights are scaled to
    a mean of 1 over the shown positions (Swaminathan and Joachims, NeurIPS 2015).

    Args:
        propensity: [...] of the shown items.
        shown: [...] bool, False at empty positions, whose weight is 0.
        n_items: N.
        clip: the largest weight before scaling.
    """
    ratio = np.minimum(1 / (n_items * np.where(shown, propensity, 1)), clip)
    return (ratio / max(ratio[shown].mean(), 1e-30) * shown).astype(np.float32)


def plan_batches(part: Part, size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
    """Group the sessions of `part` into batches of similar length, to reduce padding.

    With `rng`, sessions are shuffled among similar lengths, and so is the order of the batches.

    Returns:
        for each batch the rows of `part`, for `Part.take`.
    """
    if rng is None:
        order = np.argsort(part.end, kind="stable")
    else:
        shuffled = rng.permutation(len(part))
        noise = rng.uniform(-0.1, 0.1, len(part))  # so that batches differ between epochs
        order = shuffled[np.argsort(part.end[shuffled] * (1 + noise), kind="stable")]
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    if rng is not None:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    return groups
