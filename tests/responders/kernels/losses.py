"""Inputs of the losses, and how a loss is checked against the reference."""

import numpy as np
import torch
from torch import Tensor

from responders.kernels.loss import BLOCK, Share
from responders.kernels.negatives import Proposal

SHARES = Share.__args__  # type: ignore[attr-defined]
ROWS = {"row": 1, "block": BLOCK, "batch": 1 << 30}
TOLERANCE = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (1e-6, 5e-6),
    torch.float16: (1e-4, 1e-3),
    torch.bfloat16: (5e-4, 5e-3),
}


def inputs(
    n: int, v: int, d: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(n, d, generator=generator)).to(dtype).requires_grad_()
    items = (torch.randn(v, d, generator=generator) / max(d, 1) ** 0.5).to(dtype).requires_grad_()
    return hidden, items, torch.randint(v, (n,), generator=generator)


def distance(found: Tensor, expected: Tensor) -> float:
    gap = torch.linalg.vector_norm(found.detach().double() - expected.detach().double())
    return float(gap / torch.linalg.vector_norm(expected.detach().double()).clamp(min=1e-30))


def drawn(n: int, k: int, share: str, proposal: Proposal, seed: int) -> tuple[Tensor, Tensor]:
    """The negatives of each position [n, k], and what is subtracted from their logits."""
    index = proposal.draw(seed, torch.arange(n) // ROWS[share], k)
    return index, np.log(k) + proposal.log_probability(index)


def check(
    hidden: Tensor,
    items: Tensor,
    loss: Tensor,
    expected: Tensor,
    weights: tuple[Tensor, ...] = (),
) -> None:
    """Loss and gradients against the reference, as relative norms."""
    inner, outer = TOLERANCE[hidden.dtype]
    assert distance(loss, expected) <= inner
    leaves = (hidden, items, *weights)
    found = torch.autograd.grad(loss.sum(), leaves)
    right = torch.autograd.grad(expected.sum(), leaves)
    for got, wanted in zip(found, right, strict=True):
        assert distance(got, wanted) <= outer
        assert got.dtype == hidden.dtype
