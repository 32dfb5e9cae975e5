"""Attention without a softmax as a recurrence: a matrix a head that fades by gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.errors import InputError


class LinearAttentionBlock(nn.Module):
    """A block of gated linear attention: its result is normed, gated and added to the input.

    A head remembers M_t = a_t · M_(t-1) + k_tᵀ v_t and answers q_t M_t (Katharopoulos et al., arXiv
    2006.16236, equations 18 to 20, with the identity as feature map). In place of its denominator,
    the heads are normed and memory fades, as in arXiv 2307.08621; the decay a_t in (0, 1) reads the
    token, as in arXiv 2405.21060.

    Args:
        size: H.
        heads: of attention; divides H.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        if size % heads:
            raise InputError(f"hidden_size {size} must be a multiple of {heads} heads")
        self.size, self.heads = size, heads
        self.norm, self.attended_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.project = nn.Linear(size, 4 * size)
        self.decay = nn.Linear(size, heads)
        self.out = nn.Linear(size, size)
        with torch.no_grad():  # heads start with memories from 4 to 150 tokens long
            self.decay.bias.copy_(torch.linspace(1, 5, heads))

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return gates [..., H], queries, keys, values [..., heads, D], log-decays [..., heads]."""
        x = self.norm(x)
        gate, *rest = self.project(x).chunk(4, -1)
        query, key, value = (each.unflatten(-1, (self.heads, -1)) for each in rest)
        query = query * query.shape[-1] ** -0.5
        return F.silu(gate), query, key, value, F.logsigmoid(self.decay(x))

    def _finish(self, x: Tensor, gate: Tensor, attended: Tensor) -> Tensor:
        return x + self.out(self.attended_norm(attended.flatten(-2)) * gate)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, L, H] for tokens x [B, L, H], in parallel; equal to `step` token by token."""
        gate, query, key, value, log_decay = self._projected(x)
        total = log_decay.cumsum(1).transpose(1, 2)  # [B, heads, L]
        faded = total.unsqueeze(3) - total.unsqueeze(2)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        weight = torch.einsum("bihd,bjhd->bhij", query, key)
        weight = weight * faded.masked_fill(later, -torch.inf).exp()
        return self._finish(x, gate, torch.einsum("bhij,bjhd->bihd", weight, value))

    def start(self, n: int) -> Tensor:
        """Return the empty memories [n, heads, D, D]."""
        depth = self.size // self.heads
        return self.out.weight.new_zeros(n, self.heads, depth, depth)

    def step(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output [B, H] and the memory [B, heads, D, D] after a token x [B, H]."""
        gate, query, key, value, log_decay = self._projected(x)
        memory = log_decay.exp()[..., None, None] * memory + key.unsqueeze(3) * value.unsqueeze(2)
        return self._finish(x, gate, (query.unsqueeze(2) @ memory).squeeze(2)), memory
