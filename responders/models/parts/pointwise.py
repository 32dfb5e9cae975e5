"""Pointwise attention: the block of HSTU (arXiv 2402.17152)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.errors import InputError


class PointwiseBlock(nn.Module):
    """A block of HSTU: SiLU(QKᵀ + bias of the distance)·V, normed, gated by U, added to the input.

    U, V, Q and K are SiLU of a linear map of the normed input (equations 1 to 3). Without a softmax
    the weights need not add up to 1, so that a sum tells how much there was to attend to.

    Args:
        size: H.
        heads: of attention; divides H.
        window: W, how many tokens back a token attends.
    """

    def __init__(self, size: int, heads: int, window: int) -> None:
        super().__init__()
        if size % heads:
            raise InputError(f"hidden_size {size} must be a multiple of {heads} heads")
        self.heads, self.window = heads, window
        self.norm, self.attended_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.project = nn.Linear(size, 4 * size)
        self.out = nn.Linear(size, size)
        self.bias = nn.Parameter(torch.zeros(heads, window + 1))  # by distance

    def _split(self, x: Tensor) -> Tensor:
        """Return x [B, L, H] as [B, heads, L, D]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return gates, queries and, together, keys and values of tokens x [..., H]."""
        size = x.shape[-1]
        gate, query, past = F.silu(self.project(self.norm(x))).split([size, size, 2 * size], -1)
        return gate, query * (size / self.heads) ** -0.5, past

    def _attend(self, query: Tensor, past: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        """Return [B, L, H] for queries [B, L, H] and keys and values [B, M, 2H].

        `bias` [heads, L, M] is added to the scores, and `mask` [B or 1, 1, L, M] bool says what
        each query may attend to.
        """
        key, value = past.chunk(2, -1)
        score = self._split(query) @ self._split(key).transpose(-1, -2) + bias
        weight = F.silu(score) * mask
        return (weight @ self._split(value)).transpose(1, 2).flatten(2)

    def _finish(self, x: Tensor, gate: Tensor, attended: Tensor) -> Tensor:
        return x + self.out(self.attended_norm(attended) * gate)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, L, H] for tokens x [B, L, H], each attending to itself and W before it."""
        gate, query, past = self._projected(x)
        index = torch.arange(x.shape[1], device=x.device)
        distance = index.unsqueeze(1) - index
        mask = (distance >= 0) & (distance <= self.window)
        bias = self.bias[:, distance.clamp(0, self.window)]
        return self._finish(x, gate, self._attend(query, past, bias, mask))

    def step(self, x: Tensor, past: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output [B, H] for one token x [B, H], and its keys and values [B, 2H].

        Args:
            x: the token.
            past: [B, L, 2H] keys and values of the L <= W tokens before it, the latest last.
            exists: [B, L] bool, which of those exist.
        """
        gate, query, latest = self._projected(x.unsqueeze(1))
        mask = F.pad(exists, (0, 1), value=True)[:, None, None]
        bias = self.bias[:, : mask.shape[-1]].flip(1).unsqueeze(1)
        attended = self._attend(query, torch.cat([past, latest], 1), bias, mask)
        return self._finish(x.unsqueeze(1), gate, attended).squeeze(1), latest.squeeze(1)
