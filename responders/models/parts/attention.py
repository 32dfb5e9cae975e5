"""Transformer blocks that run over whole sessions or step by step, with the same result."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.errors import InputError


def rotate(x: Tensor, number: Tensor) -> Tensor:
    """Turn pairs of features by angles that grow with `number` (rotary positions, RoFormer 2021).

    The product of two rotated vectors depends on the difference of their numbers alone.

    Args:
        x: [B, heads, L, D], D even.
        number: [B, L] int64.
    """
    half = x.shape[-1] // 2
    speed = 0.5 ** (torch.arange(half, device=x.device) * 10 / half)  # a turn in 6 to 6,000 slates
    angle = (number.unsqueeze(-1) * speed).unsqueeze(1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.split(half, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Multi-head attention from queries to keys and values.

    Args:
        size: H, of queries, keys, values and result.
        heads: of attention; divides H into even parts.
        query_size: of the vectors that ask, by default H.
    """

    def __init__(self, size: int, heads: int, query_size: int | None = None) -> None:
        super().__init__()
        if size % (2 * heads):
            raise InputError(f"hidden_size {size} must be a multiple of 2 x {heads} heads")
        self.heads = heads
        self.query = nn.Linear(query_size or size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.out = nn.Linear(size, size)

    def queries(self, x: Tensor, number: Tensor | None = None) -> Tensor:
        """Return queries [B, heads, L, D] of x [B, L, H], rotated by `number` [B, L]."""
        query = self._split(self.query(x))
        return query if number is None else rotate(query, number)

    def keys_values(self, x: Tensor, number: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, heads, L, D] of x [B, L, H]."""
        return self.as_keys_values(self.key_value(x), number)

    def as_keys_values(
        self, projected: Tensor, number: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, heads, L, D] of `key_value(x)` [B, L, 2H]."""
        key, value = (self._split(part) for part in projected.chunk(2, -1))
        return (key if number is None else rotate(key, number)), value

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend; return [B, L, H].

        Args:
            query: [B, heads, L, D].
            key: [B, heads, M, D].
            value: [B, heads, M, D].
            mask: [B, 1, L, M] bool, True where a query may look; every query somewhere.
            causal: each query sees the keys up to its own place (then no mask).
        """
        found = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
        return self.out(found.transpose(1, 2).flatten(2))

    def continued(
        self,
        query: Tensor,
        past: tuple[Tensor, Tensor],
        new: tuple[Tensor, Tensor],
        seen: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Attend to a long past and a few new tokens without joining the two; return [B, L, H].

        Args:
            query: [B, heads, L, D].
            past: keys and values [B, heads, M, D].
            new: keys and values [B, heads, m, D].
            seen: [B, M] bool, what there is of the past.
            mask: [B, L, m] bool, which new tokens each query may look at; at least one.
        """
        query = query * query.shape[-1] ** -0.5
        scores = [query @ keys.transpose(-1, -2) for keys in (past[0], new[0])]
        masks = seen[:, None, None], mask[:, None]
        scores = [s.masked_fill(~m, -torch.inf) for s, m in zip(scores, masks, strict=True)]
        weight = torch.cat(scores, -1).softmax(-1)
        n_past = seen.shape[1]
        found = weight[..., :n_past] @ past[1] + weight[..., n_past:] @ new[1]
        return self.out(found.transpose(1, 2).flatten(2))


class Feed(nn.Sequential):
    """Two linear layers on a normalised input.

    Args:
        size: H, of input and result.
        widen: units between them per unit of H.
    """

    def __init__(self, size: int, widen: int = 2) -> None:
        super().__init__(
            nn.LayerNorm(size),
            nn.Linear(size, widen * size),
            nn.GELU(),
            nn.Linear(widen * size, size),
        )


class Block(nn.Module):
    """Pre-norm transformer block: attention, then two linear layers, each added to its input.

    Args:
        size: H.
        heads: of attention.
        widen: units of the feed-forward layer per unit of H.
    """

    def __init__(self, size: int, heads: int, widen: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.attention = Attention(size, heads)
        self.feed = Feed(size, widen)

    def forward(
        self,
        x: Tensor,
        number: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Return [B, L, H] for x [B, L, H] attending to itself; see `Attention`."""
        normed = self.norm(x)
        key, value = self.attention.keys_values(normed, number)
        query = self.attention.queries(normed, number)
        return self.finish(x, self.attention(query, key, value, mask, causal))

    def finish(self, x: Tensor, found: Tensor) -> Tensor:
        """Return [B, L, H] for x [B, L, H] and what its attention found."""
        x = x + found
        return x + self.feed(x)
