"""Cross-entropy of a softmax over the catalogue, from hidden states and item vectors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def linear_cross_entropy(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy of softmax(hidden · itemsᵀ + bias) at the targets.

    Args:
        hidden: [N, d].
        items: [V, d].
        target: [N] int64 in [0, V), or `ignore_index`.
        bias: [V].
        ignore_index: targets that count for nothing.
        reduction: mean (over targets that count), sum or none.
    """
    return F.cross_entropy(
        F.linear(hidden, items, bias), target, ignore_index=ignore_index, reduction=reduction
    )
