"""Counter-based sampling of negatives: the same seed gives the same items on every device.

Philox 4x32-10 (Salmon et al., SC 2011) turns (seed, group, k) into four random words. Indices are
never stored: negative k of a group of positions is drawn again whenever it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from responders.errors import InputError

_ROUNDS = 10
_KEY = (0x9E3779B9, 0xBB67AE85)
_ROUND = (0xD2511F53, 0xCD9E8D57)
_MASK = 0xFFFFFFFF


def philox(seed: int, c0: Tensor, c1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four words in [0, 2^32) as int64 for the counters (c0, c1, 0, 0).

    Args:
        seed: 64 bits.
        c0: int64 in [0, 2^32).
        c1: int64 in [0, 2^32), broadcastable with c0.
    """
    c0, c1 = torch.broadcast_tensors(c0, c1)
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(_ROUNDS):
        (high0, low0), (high2, low2) = _multiply(c0, _ROUND[0]), _multiply(c2, _ROUND[1])
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY[0]) & _MASK, (k1 + _KEY[1]) & _MASK
    return c0, c1, c2, c3


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Return the high and the low word of a · b for words in int64, without overflow."""
    low = a * (b & 0xFFFF)
    mid = a * (b >> 16) + (low >> 16)
    return mid >> 16, ((mid & 0xFFFF) << 16) | (low & 0xFFFF)


def _scale(word: Tensor, n: int) -> Tensor:
    """Return ⌊word · n / 2^32⌋ in [0, n), for n below 2^31."""
    return ((word >> 16) * n + (((word & 0xFFFF) * n) >> 16)) >> 16


@dataclass(frozen=True)
class Proposal:
    """The distribution q that negatives are drawn from.

    Args:
        n_items: V.
        log_q: [V] float64, the log-probability of each item; None = uniform.
        accept: [V] float32, acceptance probabilities of Walker's alias table of q.
        alias: [V] int64, its aliases.
    """

    n_items: int
    log_q: Tensor | None = None
    accept: Tensor | None = None
    alias: Tensor | None = None

    @staticmethod
    def by_weight(weight: Tensor) -> Proposal:
        """Return the proposal q ∝ `weight` [V], such as click counts + 1; all must be positive.

        Raises:
            InputError: the weights are not [V] real numbers, or one is not positive and finite. An
                item that is never drawn would change the limit of the loss.
        """
        if weight.ndim != 1 or weight.is_complex():
            raise InputError(
                f"proposal weights must be [V] real numbers, not {tuple(weight.shape)} "
                f"{weight.dtype}"
            )
        w = weight.detach().double().cpu().numpy()
        if not np.isfinite(w).all() or not (w > 0).all():
            item = int(np.argmin(np.isfinite(w) & (w > 0)))
            raise InputError(
                f"proposal weight {w[item]:g} of item {item} is not positive and finite: add a "
                "small number to counts, since items that are never drawn change the loss's limit"
            )
        q = w / w.sum()
        accept, alias = np.ones(len(q)), np.arange(len(q))
        scaled = q * len(q)
        small, large = list(np.flatnonzero(scaled < 1)), list(np.flatnonzero(scaled >= 1))
        while small and large:
            under, over = small.pop(), large[-1]
            accept[under], alias[under] = scaled[under], over
            scaled[over] -= 1 - scaled[under]
            if scaled[over] < 1:
                small.append(large.pop())
        log_q = np.log(q)
        device = weight.device
        return Proposal(
            len(q),
            torch.from_numpy(log_q).to(device),
            torch.from_numpy(accept).float().to(device),
            torch.from_numpy(alias).to(device),
        )

    def to(self, device: torch.device | str) -> Proposal:
        """Return the proposal with its tables on `device`."""
        tables = (self.log_q, self.accept, self.alias)
        return Proposal(self.n_items, *(None if t is None else t.to(device) for t in tables))

    def draw(self, seed: int, group: Tensor, n_negatives: int) -> Tensor:
        """Return the negatives of each group, [G, K] int64.

        Args:
            seed: fixes them.
            group: [G] int64 numbers of groups of positions.
            n_negatives: K.
        """
        k = torch.arange(n_negatives, device=group.device)
        first, second, _, _ = philox(seed, k, group.unsqueeze(1))
        item = _scale(first, self.n_items)
        if self.accept is None or self.alias is None:
            return item
        accepted = second.to(torch.float32) * 2.0**-32 < self.accept[item]
        return torch.where(accepted, item, self.alias[item])

    def log_probability(self, item: Tensor) -> Tensor:
        """Return log q of items, float64 of the same shape."""
        if self.log_q is None:
            value = -float(np.log(self.n_items))
            return torch.full(item.shape, value, dtype=torch.float64, device=item.device)
        return self.log_q[item]


@dataclass(frozen=True)
class Sampling:
    """How negatives are drawn and corrected.

    Args:
        n_negatives: K.
        rows: positions in a group, which share negatives; 0 = all of them.
        proposal: the distribution they are drawn from.
        seed: fixes them.
        correct: subtract log(K · q) from their logits.
    """

    n_negatives: int
    rows: int
    proposal: Proposal
    seed: int
    correct: bool
