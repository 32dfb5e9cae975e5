"""Cross-entropy of a softmax over the catalogue, from hidden states and item vectors."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from responders.errors import InputError, check_finite, check_whole, near_matches
from responders.kernels.chunked import ChunkedCrossEntropy
from responders.kernels.negatives import Proposal, Sampling
from responders.kernels.terms import Terms

Share = Literal["row", "block", "batch"]
"""Which positions share their negatives: none, those of each block of 64, or all."""

Correction = Literal["logq", "none"]
"""`logq` subtracts log(K · q(n)) from a negative's logit, so that the loss tends to the full one;
`none` does not."""

BLOCK = 64

AUTOMATIC_NEGATIVES = 1024
"""K of negatives="auto" if it samples."""

_COST = {"row": 90, "block": 2, "batch": 2}
"""Cost of a sampled negative, relative to an item of the full loss: with `row`, its vector is
gathered and its gradient scattered; shared negatives are only drawn. See docs/kernels.md."""

Implementation = Literal["auto", "triton", "chunked"]
"""`auto` runs Triton on a CUDA device. It runs PyTorch in chunks elsewhere, for float64, vectors
too wide for the GPU's shared memory (on an A100, over 512 numbers in half precision), and for the
full catalogue in float32 unless `torch.set_float32_matmul_precision("high")` allows TF32: without
tensor cores, cuBLAS is faster than Triton."""


@torch.compiler.disable  # tile sizes depend on the shapes; the code around the call can be compiled
def linear_cross_entropy(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    negatives: int | Literal["auto"] | None = None,
    share: str = "row",
    proposal: str | Proposal | Tensor = "uniform",
    correction: str = "logq",
    bias: Tensor | None = None,
    softcap: float | None = None,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    deterministic: bool = False,
    seed: int | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Return the cross-entropy of softmax(hidden · itemsᵀ + bias) at the targets.

    Neither the logits of all positions nor the vectors of all negatives exist at once: memory is
    that of the inputs, the gradients and a tile. For half precision, sums are accumulated in
    float32.

    Args:
        hidden: [..., d] float32, float64, bfloat16 or float16, such as [N, d] or [B, T, d].
        items: [V, d] of the same dtype.
        target: [...] int64 in [0, V), or `ignore_index`.
        negatives: K, negatives drawn per position; None = the whole catalogue; "auto" = the cheaper
            one by `choose_negatives`, which logs its choice (INFO, responders.kernels.loss). A
            negative that equals its position's target is ignored.
        share: see `Share`.
        proposal: uniform; weights [V], such as counts, to draw in proportion to; or a `Proposal`,
            which saves building its tables at each call.
        correction: see `Correction`.
        bias: [V].
        softcap: c; logits become c · tanh(logit / c).
        weight: [V], weights of the targets, as in `torch.nn.functional.cross_entropy`; the mean is
            weighted too.
        label_smoothing: as in `torch.nn.functional.cross_entropy`; full catalogue, no softcap.
        z_loss: adds z_loss · logsumexp(logits)² to each position, which keeps logits small; full
            catalogue.
        ignore_index: targets to ignore.
        reduction: mean (over targets that are not ignored; 0 if there are none), sum or none ([N],
            0 where ignored).
        deterministic: return the same bits in every run. It only matters for the items' gradient
            over negatives on a GPU, where it sorts the additions, which is slower.
        seed: of the negatives; None takes one from PyTorch's generator.
        implementation: see `Implementation` and `implementation_for`.

    Raises:
        InputError: a wrong shape, dtype or name, or a target outside the catalogue.
    """
    _check_types(hidden, items, target, bias, softcap, ignore_index, negatives, seed)
    if torch.is_autocast_enabled(hidden.device.type):  # as torch.nn.functional.linear does
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, items = hidden.to(dtype), items.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    shape = target.shape
    if hidden.ndim != 2 and hidden.shape[:-1] == shape:
        hidden, target = hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1)
    _check(hidden, items, target, bias, ignore_index)
    for name, value, known in (
        ("share", share, get_args(Share)),
        ("correction", correction, get_args(Correction)),
        ("reduction", reduction, ("mean", "sum", "none")),
        ("implementation", implementation, get_args(Implementation)),
    ):
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown; {near_matches(value, known)}")
    if negatives == "auto":
        negatives, _ = choose_negatives(len(items), share)
    terms = Terms(weight, label_smoothing, z_loss)
    terms.check(items, softcap, negatives is not None)
    sampling = None
    if negatives is not None:
        rows = {"row": 1, "block": BLOCK, "batch": 0}[share]
        built = _proposal(proposal, items)
        drawn_seed = int(torch.randint(1 << 62, ())) if seed is None else seed
        sampling = Sampling(negatives, rows, built, drawn_seed, correction == "logq")
    if implementation == "auto":
        implementation = implementation_for(hidden, sampling is None)
    losses = _plain(
        hidden, items, target, bias, softcap, sampling, ignore_index,
        "none" if terms else reduction, deterministic, implementation,
    )  # fmt: skip
    if terms:
        losses = terms.add(losses, hidden, items, target, bias, softcap, ignore_index)
        losses = terms.reduce(losses, target, ignore_index, reduction)
    return losses.view(shape) if reduction == "none" else losses


def _plain(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    sampling: Sampling | None,
    ignore_index: int,
    reduction: str,
    deterministic: bool,
    implementation: str,
) -> Tensor:
    """Return the loss without `Terms`, reduced; hidden is [N, d], and all arguments are checked."""
    bias = None if bias is None else bias.contiguous()
    counted = target != ignore_index
    all_counted = bool(counted.all())
    if not all_counted and sampling is None:  # negatives depend on the position's index
        hidden, targets = hidden[counted], target[counted]
    else:
        targets = torch.where(counted, target, 0)
    if implementation == "triton":
        losses = _triton(hidden, items, bias, targets, softcap, sampling, deterministic)
        return _reduced(losses, counted, reduction, sampling is None)
    if deterministic and sampling is not None and hidden.is_cuda:
        raise InputError(
            "in plain PyTorch on a GPU, additions over negatives are not ordered: deterministic "
            "needs Triton (float32 or half precision), the full catalogue, or the CPU"
        )
    n_counted = max(int(counted.sum()), 1)
    scale = 1 / n_counted if reduction == "mean" else 1.0
    summed = reduction != "none" and (all_counted or sampling is None)
    with torch.autocast(hidden.device.type, enabled=False):
        losses = ChunkedCrossEntropy.apply(
            hidden, items, bias, targets, softcap, sampling, scale if summed else None
        )
    if summed:
        return losses
    return _reduced(losses, counted, reduction, sampling is None)


@lru_cache(maxsize=64)
def choose_negatives(n_items: int, share: str = "row") -> tuple[int | None, str]:
    """Return the K that negatives="auto" takes (None = the full catalogue), and why.

    The full loss costs V products per position; the sampled loss K times the cost of a negative.

    Args:
        n_items: V.
        share: see `Share`.
    """
    cost = _COST[share] * AUTOMATIC_NEGATIVES
    if n_items <= cost:
        chosen, sign = None, "is cheaper than"
    else:
        chosen, sign = AUTOMATIC_NEGATIVES, "costs more than"
    why = (
        f"the full catalogue of {n_items:,} items {sign} {AUTOMATIC_NEGATIVES:,} negatives by "
        f"{share} (a negative costs about {_COST[share]} items)"
    )
    taken = "the full loss" if chosen is None else f"{chosen:,} negatives"
    logging.getLogger(__name__).info("negatives='auto' takes %s: %s", taken, why)
    return chosen, why


def implementation_for(hidden: Tensor, full: bool = True) -> str:
    """Return the implementation that `auto` runs for tensors like `hidden`: triton or chunked.

    Args:
        hidden: [N, d].
        full: whether the loss is over the full catalogue.
    """
    if not hidden.is_cuda or hidden.dtype == torch.float64:
        return "chunked"
    try:
        from responders.kernels.triton_loss import Tiles, product_of
    except ImportError:  # Triton only supports Linux
        return "chunked"
    slow = full and product_of(hidden) == "ieee"
    return "chunked" if slow or Tiles.of(hidden) is None else "triton"


def _triton(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor | None,
    target: Tensor,
    softcap: float | None,
    sampling: Sampling | None,
    deterministic: bool,
) -> Tensor:
    from responders.kernels.triton_kernels import INTERPRETED
    from responders.kernels.triton_loss import Problem, TritonCrossEntropy

    if not hidden.is_cuda and not INTERPRETED:
        raise InputError(
            "implementation='triton' needs a CUDA device (or TRITON_INTERPRET=1 set before Python "
            "starts): use 'auto'"
        )
    if hidden.dtype == torch.float64:
        raise InputError("implementation='triton' does not compute in float64: use 'chunked'")
    detached_bias = None if bias is None else bias.detach()
    problem = Problem(
        hidden.detach(), items.detach(), detached_bias, target, softcap, sampling, deterministic
    )
    with torch.autocast(hidden.device.type, enabled=False):
        return TritonCrossEntropy.apply(hidden, items, bias, problem)


def _reduced(losses: Tensor, counted: Tensor, reduction: str, dropped: bool) -> Tensor:
    """Reduce the losses of all positions or, if `dropped`, only of the `counted` ones."""
    if dropped and reduction == "none":
        return losses.new_zeros(len(counted)).masked_scatter(counted, losses)
    if not dropped:
        losses = torch.where(counted, losses, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() / (counted.sum().clamp(min=1) if reduction == "mean" else 1)


def _proposal(proposal: str | Proposal | Tensor, items: Tensor) -> Proposal:
    if isinstance(proposal, str):
        if proposal != "uniform":
            raise InputError(
                f"proposal {proposal!r} is unknown: uniform, or give weights [V] such as counts"
            )
        return Proposal(len(items))
    if not isinstance(proposal, (Proposal, Tensor)):
        raise InputError(
            f"proposal must be 'uniform', weights [V] or a Proposal, not {type(proposal).__name__}"
        )
    built = proposal if isinstance(proposal, Proposal) else Proposal.by_weight(proposal)
    if built.n_items != len(items):
        raise InputError(
            f"the proposal is of {built.n_items} items, the catalogue has {len(items)}"
        )
    return built.to(items.device)


def _check_types(
    hidden: object,
    items: object,
    target: object,
    bias: object,
    softcap: object,
    ignore_index: object,
    negatives: object,
    seed: object,
) -> None:
    for name, value in (("hidden", hidden), ("items", items), ("target", target), ("bias", bias)):
        if not isinstance(value, Tensor) and not (name == "bias" and value is None):
            raise InputError(f"{name} must be a tensor, not {type(value).__name__}")
    if isinstance(bias, Tensor) and not bias.is_floating_point():
        raise InputError(f"bias must be of a floating-point dtype, not {bias.dtype}")
    if softcap is not None and not check_finite("softcap", softcap) > 0:
        raise InputError(f"softcap must be positive, not {softcap}")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise InputError(f"ignore_index must be a whole number, not {ignore_index!r}")
    if not -(1 << 63) <= ignore_index < 1 << 63:
        raise InputError(f"ignore_index must fit into int64, not {ignore_index}")
    drawn = 1 if negatives in (None, "auto") else check_whole("negatives", negatives, 1)
    if drawn >= 1 << 31:  # they are numbered by 32-bit words
        raise InputError(f"negatives must be below 2^31, not {drawn}")
    if seed is not None and check_whole("seed", seed, 0) >= 1 << 63:
        raise InputError(f"seed must be below 2^63, not {seed}")


def _check(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    bias: Tensor | None,
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
    wrong = (target != ignore_index) & ((target < 0) | (target >= len(items)))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"target {int(target[row])} of position {row} is not in the catalogue of {len(items)} "
            f"items, and not the ignore_index {ignore_index}"
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
        return linear_cross_entropy(hidden, items, target, **self.options)
