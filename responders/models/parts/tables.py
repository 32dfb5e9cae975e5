"""Tables of learned vectors, a row for each item."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def zero_row_table(n_rows: int, size: int, std: float, zero_row: int) -> nn.Embedding:
    """Return a table of random vectors with deviation `std`; the row `zero_row` stays zero."""
    table = nn.Embedding(n_rows, size, padding_idx=zero_row)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[zero_row] = 0
    return table


def extended(table: nn.Embedding, rows: Tensor) -> nn.Embedding:
    """Return `table` with `rows` [n, size] appended."""
    weight = torch.cat([table.weight.detach(), rows.detach()])
    return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=table.padding_idx)


class BoundedDelta(nn.Module):
    """What training may change of frozen content vectors: a delta of bounded norm for each.

    Deltas start at zero, so an item that training never shows keeps its content vector (arXiv
    2507.19473). Lengths are relative: content vectors of K numbers are normed to √K, which counts
    as 1, so that their numbers are of size 1 whatever K is.

    Args:
        n_rows: rows of the table.
        size: K.
        bound: the largest norm of a delta; 0 = the content vectors stay as they are.
        zero_row: whose delta stays zero.
    """

    def __init__(self, n_rows: int, size: int, bound: float, zero_row: int) -> None:
        super().__init__()
        self.length, self.bound = size**0.5, bound
        self.table = zero_row_table(n_rows, size, 0.0, zero_row)

    def normed(self, content: Tensor) -> Tensor:
        """Return vectors [..., K] with norm √K; zeros stay zeros."""
        return self.length * F.normalize(content, dim=-1)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the deltas [..., K] of table rows [...], of a norm of at most `bound` · √K."""
        free = self.table(rows)
        norm = torch.linalg.vector_norm(free, dim=-1, keepdim=True).clamp(min=1e-12)
        return self.length * free * (self.bound / norm).clamp(max=1)

    def add_rows(self, n: int) -> None:
        """Append `n` deltas of zero."""
        self.table = extended(self.table, self.table.weight.new_zeros(n, self.table.embedding_dim))
