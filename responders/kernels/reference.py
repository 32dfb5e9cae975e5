"""The loss in float64 as defined; the other implementations are tested against it."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    softcap: float | None = None,
    negatives: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Return the loss of each position, [N] float64; every target must be an item.

    Args:
        hidden: [N, d].
        items: [V, d].
        target: [N] int64.
        bias: [V].
        softcap: c of c · tanh(logit / c).
        negatives: [N, K] int64; None = the full catalogue.
        shift: [N, K] subtracted from the negatives' logits (the logQ correction).
    """
    hidden, items = hidden.double(), items.double()
    logits = hidden @ items.t()
    if bias is not None:
        logits = logits + bias.double()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    positive = logits.gather(1, target.unsqueeze(1))
    if negatives is None:
        return torch.logsumexp(logits, 1) - positive.squeeze(1)
    sampled = logits.gather(1, negatives)
    if shift is not None:
        sampled = sampled - shift.double()
    sampled = sampled.masked_fill(negatives == target.unsqueeze(1), -torch.inf)
    return torch.logsumexp(torch.cat([positive, sampled], 1), 1) - positive.squeeze(1)
