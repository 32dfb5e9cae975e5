"""Class weights, label smoothing and z-loss, added to the cross-entropy of each position.

All follow from the plain loss and the logit of the target, since logsumexp(logits) = loss + logit
of the target, so the kernels do not implement them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from responders.errors import InputError, check_finite


@dataclass(frozen=True)
class Terms:
    """What is added to the plain loss; see `responders.kernels.linear_cross_entropy`.

    Args:
        weight: [V] of the items as targets, or None.
        label_smoothing: share of the target's probability that is spread over the catalogue.
        z_loss: weight of the squared logsumexp.
    """

    weight: Tensor | None
    label_smoothing: float
    z_loss: float

    def __bool__(self) -> bool:
        return self.weight is not None or self.label_smoothing > 0 or self.z_loss > 0

    def check(self, items: Tensor, softcap: float | None, sampled: bool) -> None:
        """Raise `InputError` for a wrong shape or value, or terms that the loss does not have."""
        for name, value in (("label_smoothing", self.label_smoothing), ("z_loss", self.z_loss)):
            if check_finite(name, value) < 0:
                raise InputError(f"{name} must not be negative, not {value}")
            if value and sampled:
                raise InputError(f"{name} needs the full catalogue: leave out negatives")
        if self.label_smoothing > 1:
            raise InputError(f"label_smoothing must be at most 1, not {self.label_smoothing}")
        if self.label_smoothing and softcap is not None:
            raise InputError("label_smoothing cannot be combined with softcap")
        if self.weight is not None:
            is_weight = isinstance(self.weight, Tensor) and self.weight.is_floating_point()
            if not is_weight or self.weight.shape != items.shape[:1]:
                raise InputError(f"weight must be a floating-point tensor [{len(items)}]")
            if not (torch.isfinite(self.weight) & (self.weight >= 0)).all():
                raise InputError("weight holds a negative or non-finite number")

    def add(
        self,
        losses: Tensor,
        hidden: Tensor,
        items: Tensor,
        target: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        ignore_index: int,
    ) -> Tensor:
        """Return the losses [N] with all terms, from the plain ones [N]; 0 where ignored."""
        dtype, counted = losses.dtype, target != ignore_index
        target = torch.where(counted, target, 0)
        weight = torch.ones(len(items), device=items.device) if self.weight is None else self.weight
        weight = weight.to(dtype)
        result = losses * weight[target]
        if not (self.label_smoothing or self.z_loss):
            return torch.where(counted, result, 0.0)
        logit = (hidden * items[target]).sum(1, dtype=dtype)
        logit = logit if bias is None else logit + bias[target].to(dtype)
        if softcap is not None:
            logit = softcap * torch.tanh(logit / softcap)
        log_sum = losses + logit
        if self.label_smoothing:
            # Σ_v weight_v · (log_sum − logit_v), for which Σ_v weight_v · items_v is enough
            weighted = hidden.to(dtype) @ (weight @ items.to(dtype))
            weighted = weighted if bias is None else weighted + weight @ bias.to(dtype)
            smooth = (log_sum * weight.sum() - weighted) / len(items)
            result = torch.lerp(result, smooth, self.label_smoothing)
        return torch.where(counted, result + self.z_loss * log_sum.square(), 0.0)

    def reduce(self, losses: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
        """Return the losses [N], their sum, or their mean weighted by the targets' weights."""
        if reduction == "none":
            return losses
        if reduction == "sum":
            return losses.sum()
        counted = target != ignore_index
        total = counted.sum()
        if self.weight is not None:
            total = (self.weight[torch.where(counted, target, 0)] * counted).sum()
        return losses.sum() / torch.where(total > 0, total, 1)
