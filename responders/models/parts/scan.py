"""A minimal GRU, stepped or run over whole sequences by a parallel scan."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def linear_scan(keep: Tensor, new: Tensor) -> Tensor:
    """Return h [B, L, H] with h_t = keep_t · h_(t-1) + new_t and h_(-1) = 0.

    The steps are joined in pairs, fours, eights, …: log2(L) rounds over the whole sequence instead
    of L steps (Hillis & Steele, 1986). With 0 ≤ keep ≤ 1 nothing overflows.

    Args:
        keep: [B, L, H].
        new: [B, L, H].
    """
    reach = 1
    while reach < new.shape[1]:
        later = new[:, reach:] + keep[:, reach:] * new[:, :-reach]
        new = torch.cat([new[:, :reach], later], 1)
        keep = torch.cat([keep[:, :reach], keep[:, reach:] * keep[:, :-reach]], 1)
        reach *= 2
    return new


class MinGRUCell(nn.Module):
    """h_t = (1 - z_t) · h_(t-1) + z_t · c_t; gate z and candidate c read x_t only (2410.01201).

    Args:
        size: H, of input and state.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(size, size)
        self.candidate = nn.Linear(size, size)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the next state [B, H] for an input x [B, H]."""
        return torch.lerp(state, self.candidate(x), self.gate(x).sigmoid())

    def parallel(self, x: Tensor, first: Tensor) -> Tensor:
        """Return the states [B, L, H] after inputs x [B, L, H], starting from `first` [B, H]."""
        gate = self.gate(x).sigmoid()
        keep, new = 1 - gate, gate * self.candidate(x)
        new = torch.cat([new[:, :1] + keep[:, :1] * first.unsqueeze(1), new[:, 1:]], 1)
        return linear_scan(keep, new)
