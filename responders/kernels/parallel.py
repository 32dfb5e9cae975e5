"""Cross-entropy over a catalogue whose item vectors are split among processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from responders.errors import InputError, near_matches
from responders.kernels.loss import linear_cross_entropy

Group = dist.ProcessGroup | None


def sharded_cross_entropy(
    hidden: Tensor,
    shard: Tensor,
    target: Tensor,
    first: int,
    *,
    group: Group = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    implementation: str = "auto",
) -> Tensor:
    """Return the loss of `linear_cross_entropy` over all items, each process holding some of them.

    Every process calls it with the same hidden states and targets. It gets the same loss, the
    gradient of its own items, and the whole gradient of the hidden states (vocabulary parallelism:
    Shoeybi et al., "Megatron-LM", 2019, arXiv:1909.08053). Three numbers of each position are
    exchanged, and in the backward pass the gradient of the hidden states.

    Args:
        hidden: [N, d], the same in all processes.
        shard: [V_r, d], the vectors of the items from `first` on; V_r ≥ 1 may differ.
        target: [N] int64 indices in the whole catalogue, or `ignore_index`.
        first: the catalogue index of the first item of `shard`.
        group: the processes; None = all of them.
        ignore_index: targets to ignore.
        reduction: mean (over targets that are not ignored; 0 if there are none), sum or none.
        implementation: of the loss over the shard, see `linear_cross_entropy`.

    Raises:
        InputError: an unknown reduction, or a wrong shape or dtype.
    """
    if reduction not in ("mean", "sum", "none"):
        known = ("mean", "sum", "none")
        raise InputError(f"reduction {reduction!r} is unknown; {near_matches(reduction, known)}")
    hidden = _Copy.apply(hidden, group)
    # The kernel gives logsumexp - logit of a target: with item 0 as the target of all positions,
    # the logsumexp over the shard follows, without the shard's logits in memory.
    zero = torch.zeros_like(target)
    loss = linear_cross_entropy(
        hidden, shard, zero, reduction="none", implementation=implementation
    )
    partial = loss.float() + hidden.float() @ shard[0].float()
    largest = partial.detach().clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    total = _Sum.apply((partial - largest).exp(), group)
    here = (target >= first) & (target < first + len(shard))
    own = shard[torch.where(here, target - first, 0)]
    logit = _Sum.apply((hidden * own).float().sum(-1) * here, group)
    counted = target != ignore_index
    losses = (total.log() + largest - logit) * counted
    if reduction == "none":
        return losses
    return losses.sum() / (counted.sum().clamp(min=1) if reduction == "mean" else 1)


class _Copy(torch.autograd.Function):
    """The same tensor in all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _Sum(torch.autograd.Function):
    """The sum over the processes, each of which has the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Group) -> Tensor:
        value = value.clone()
        dist.all_reduce(value, group=group)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
