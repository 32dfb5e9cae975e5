"""Support: how common slates with as much repetition are in a log."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from responders.errors import InputError
from responders.log import ragged
from responders.log.catalogue import Catalogue
from responders.log.history import history
from responders.log.session_log import SessionLog

WINDOW = 10
"""Slates before a slate that count."""
DECAY = 0.8
"""Share of a slate's weight that is left after each further slate."""

_QUANTILES = 101
_SIGNATURE = 64
_SLATES = 20_000  # a sample of the log that suffices for the quantiles
_AT_ONCE = 2_000  # slates, as each takes the vectors of all that were shown before


@dataclass(frozen=True)
class Support:
    """The distribution of repetition over the slates of a log.

    A responder has learned from what the log shows. Where slates repeat what the session has shown
    more than logged ones do, its answers are an extrapolation, and that is where a policy that
    optimises goes: on known-truth logs repetition tells the error of such a policy's slates better
    than the disagreement of an ensemble does (see the documentation of results).

    Args:
        repetition: [Q] quantiles of the repetition of the log's slates, evenly spaced from 0 to 1.

    Raises:
        InputError: they do not ascend from at least 0.
    """

    repetition: tuple[float, ...]

    def __post_init__(self) -> None:
        values = np.asarray(self.repetition, dtype=float)
        ascending = len(values) > 1 and values[0] >= 0 and (np.diff(values) >= 0).all()
        if not ascending or not np.isfinite(values).all():
            raise InputError("support needs two or more finite quantiles ≥ 0 that ascend")

    def share(self, repetition: Tensor) -> Tensor:
        """Return the share [B] of logged slates that repeat at least as much as given ones [B]."""
        quantiles = _on_device(self.repetition, repetition.device)
        above = torch.searchsorted(quantiles, repetition.contiguous())
        upper = above.clamp(max=len(quantiles) - 1)
        lower = (above - 1).clamp(min=0)
        low, high = quantiles[lower], quantiles[upper]
        part = ((repetition - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
        below = (lower + part * (upper - lower)) / (len(quantiles) - 1)
        return torch.where(repetition > quantiles[-1], 0.0, 1 - below)


@cache
def _on_device(repetition: tuple[float, ...], device: torch.device) -> Tensor:
    """Return quantiles [Q] float32, made once, as every step of a world looks at them."""
    return torch.tensor(repetition, dtype=torch.float32, device=device)


def unit_vectors(catalogue: Catalogue) -> Tensor:
    """Return the vectors [N + 1, d] whose products tell how alike items are; the last is 0.

    They are the standardised features, of length 1. A catalogue without features gets 64 fixed
    random numbers per item, so that nearly only the same item counts.
    """
    features = torch.tensor(catalogue.features, dtype=torch.float32)
    if features.shape[1]:
        features = (features - features.mean(0)) / features.std(0, correction=0).clamp(min=1e-6)
    else:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(len(catalogue), _SIGNATURE, generator=generator)
    return F.pad(F.normalize(features, dim=1), (0, 0, 0, 1))


def repetition(slate: Tensor, slates: Tensor, vectors: Tensor) -> Tensor:
    """Return how much of the slates before it a slate repeats, [B] float32.

    The mean over the slate's items of Σ 0.8^age × their mean similarity to the items of the slate
    of that age, no less than 0: 1 means as much as one slate of identical items right before it.

    Args:
        slate: [B, S] int64, -1 = empty.
        slates: [B, W, S] int64, those before it, oldest first.
        vectors: from `unit_vectors`.
    """
    window = slates.shape[1]
    weight = DECAY ** torch.arange(window - 1, -1, -1, device=slate.device)
    # Similarity is a product, so the items shown can be added up first: -1 is the last row, zero.
    shown = torch.einsum("w,bwsd->bd", weight, vectors[slates]) / slates.shape[2]
    similarity = torch.einsum("bsd,bd->bs", vectors[slate], shown).clamp(min=0)
    return similarity.sum(1) / (slate >= 0).sum(1).clamp(min=1)


def fit_support(log: SessionLog, sessions: np.ndarray) -> Support:
    """Return the support of the slates of `sessions` of a log, of a sample if there are many."""
    start = ragged.offsets(log.session_length[sessions])  # of each session among their slates
    chosen, vectors = np.arange(min(start[-1], _SLATES)), unit_vectors(log.catalogue)
    if start[-1] > _SLATES:
        chosen = np.random.default_rng(0).choice(start[-1], _SLATES, replace=False)
    found = []
    for first in range(0, len(chosen), _AT_ONCE):
        slate = chosen[first : first + _AT_ONCE]
        owner = np.searchsorted(start, slate, "right") - 1
        session, step = sessions[owner], slate - start[owner]
        slates, _ = history(log, session, step, WINDOW)
        shown = torch.from_numpy(log.slate[log.session_start[session] + step].astype(np.int64))
        found.append(repetition(shown, torch.from_numpy(slates.astype(np.int64)), vectors))
    shares = np.linspace(0, 1, _QUANTILES)
    return Support(tuple(np.quantile(torch.cat(found).numpy(), shares).tolist()))
