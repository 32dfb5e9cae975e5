"""Cross-entropy of a softmax over the catalogue, from hidden states and item vectors."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from responders.errors import InputError, near_matches
from responders.kernels.chunked import ChunkedCrossEntropy, Sampling
from responders.kernels.negatives import Proposal

Share = Literal["row", "block", "batch"]
"""Which positions share their negatives: none, each block of 64, or all."""

Correction = Literal["logq", "none"]
"""`logq` subtracts log(K · q(n)) from a negative's logit, so that the loss tends to the full one;
`none` leaves it."""

BLOCK = 64


def linear_cross_entropy(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    negatives: int | None = None,
    share: str = "row",
    proposal: str | Proposal | Tensor = "uniform",
    correction: str = "logq",
    bias: Tensor | None = None,
    softcap: float | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    seed: int | None = None,
) -> Tensor:
    """Return the cross-entropy of softmax(hidden · itemsᵀ + bias) at the targets.

    The logits of all positions are never there at once, nor are the vectors of all negatives:
    memory is that of the inputs, the gradients and a tile. Sums are kept in float32 for half
    precision.

    Args:
        hidden: [N, d] float32, float64, bfloat16 or float16.
        items: [V, d] of the same dtype.
        target: [N] int64 in [0, V), or `ignore_index`.
        negatives: K, negatives drawn per position; None = the whole catalogue. A negative that is
            its position's target counts for nothing.
        share: see `Share`.
        proposal: uniform; or weights [V] such as counts, drawn in proportion; or a `Proposal`,
            which saves making the tables again.
        correction: see `Correction`.
        bias: [V].
        softcap: c; logits become c · tanh(logit / c).
        ignore_index: targets that count for nothing.
        reduction: mean (over targets that count; 0 if none does), sum or none ([N], 0 where
            ignored).
        seed: of the negatives; None takes one from PyTorch's generator.

    Raises:
        InputError: shapes, dtypes or names that do not fit, or a target outside the catalogue.
    """
    _check(hidden, items, target, bias, negatives, softcap, ignore_index)
    for name, value, known in (
        ("share", share, get_args(Share)),
        ("correction", correction, get_args(Correction)),
        ("reduction", reduction, ("mean", "sum", "none")),
    ):
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown; {near_matches(value, known)}")
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, items = hidden.to(dtype), items.to(dtype)
    sampling = None
    if negatives is not None:
        rows = {"row": 1, "block": BLOCK, "batch": 0}[share]
        made = _proposal(proposal, items)
        drawn = int(torch.randint(1 << 62, ())) if seed is None else seed
        sampling = Sampling(negatives, rows, made, drawn, correction == "logq")
    counts = target != ignore_index
    whole = bool(counts.all())
    if not whole and sampling is None:  # sampled ones keep their place: it decides what is drawn
        hidden, kept = hidden[counts], target[counts]
    else:
        kept = torch.where(counts, target, 0)
    n = max(int(counts.sum()), 1)
    scale = 1 / n if reduction == "mean" else 1.0
    summed = reduction != "none" and (whole or sampling is None)
    with torch.autocast(hidden.device.type, enabled=False):
        each = ChunkedCrossEntropy.apply(
            hidden, items, bias, kept, softcap, sampling, scale if summed else None
        )
    if summed:
        return each
    if reduction == "none":
        if sampling is None:
            return each.new_zeros(len(target)).masked_scatter(counts, each)
        return torch.where(counts, each, 0.0)
    return torch.where(counts, each, 0.0).sum() * scale


def _proposal(proposal: str | Proposal | Tensor, items: Tensor) -> Proposal:
    if isinstance(proposal, str):
        if proposal != "uniform":
            raise InputError(
                f"proposal {proposal!r} is unknown: uniform, or give weights [V] such as counts"
            )
        return Proposal(len(items))
    made = proposal if isinstance(proposal, Proposal) else Proposal.by_weight(proposal)
    if made.n_items != len(items):
        raise InputError(f"the proposal is of {made.n_items} items, the catalogue has {len(items)}")
    return made


def _check(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    bias: Tensor | None,
    negatives: int | None,
    softcap: float | None,
    ignore_index: int,
) -> None:
    if hidden.ndim != 2 or items.ndim != 2 or hidden.shape[1] != items.shape[1]:
        raise InputError(
            f"hidden {tuple(hidden.shape)} and items {tuple(items.shape)} must be [N, d] and [V, d]"
        )
    if target.shape != hidden.shape[:1] or target.dtype != torch.int64:
        raise InputError(
            f"target must be [{len(hidden)}] int64, not {tuple(target.shape)} {target.dtype}"
        )
    if hidden.dtype != items.dtype or not hidden.is_floating_point():
        raise InputError(f"hidden is {hidden.dtype}, items are {items.dtype}: give both one dtype")
    if bias is not None and bias.shape != items.shape[:1]:
        raise InputError(f"bias must be [{len(items)}], not {tuple(bias.shape)}")
    if not len(items):
        raise InputError("items is empty: there is no catalogue")
    if negatives is not None and negatives < 1:
        raise InputError(f"negatives must be at least 1, not {negatives}")
    if softcap is not None and not softcap > 0:
        raise InputError(f"softcap must be positive, not {softcap}")
    wrong = (target != ignore_index) & ((target < 0) | (target >= len(items)))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"target {int(target[row])} of position {row} is not in the catalogue of {len(items)} "
            f"items (nor {ignore_index}, which is ignored)"
        )


class LinearCrossEntropy(nn.Module):
    """`linear_cross_entropy` with its options fixed.

    Args:
        options: keyword arguments of `linear_cross_entropy`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, hidden: Tensor, items: Tensor, target: Tensor) -> Tensor:
        """Return the loss; see `linear_cross_entropy`."""
        return linear_cross_entropy(hidden, items, target, **self.options)
