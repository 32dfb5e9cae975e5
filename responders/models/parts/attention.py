"""Transformer blocks that run over whole sessions or step by step, with the same result."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.errors import InputError


def rotate(x: Tensor, number: Tensor) -> Tensor:
    """Rotate pairs of features by angles that grow with `number` (rotary positions, RoFormer 2021).

    The dot product of two rotated vectors depends only on the difference of their numbers.

    Args:
        x: [B, heads, L, D], D even.
        number: [B, L] int64.
    """
    half = x.shape[-1] // 2
    # The slowest pair makes a full turn in about 6,000 slates, the fastest in about 6.
    speed = 0.5 ** (torch.arange(half, device=x.device) * 10 / half)
    angle = (number.unsqueeze(-1) * speed).unsqueeze(1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.split(half, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Multi-head attention from queries to keys and values.

    Args:
        size: H, of queries, keys, values and result.
        heads: of attention; divides H into even parts.
        query_size: of the vectors that queries are made of, by default H.
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
        query = self.split_heads(self.query(x))
        return query if number is None else rotate(query, number)

    def keys_values(self, x: Tensor, number: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, heads, L, D] of x [B, L, H]."""
        return self.split_keys_values(self.key_value(x), number)

    def split_keys_values(
        self, projected: Tensor, number: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, heads, L, D] of `key_value(x)` [B, L, 2H]."""
        key, value = (self.split_heads(part) for part in projected.chunk(2, -1))
        return (key if number is None else rotate(key, number)), value

    def split_heads(self, x: Tensor) -> Tensor:
        """Return x [B, L, H] as [B, heads, L, D]."""
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
            mask: [B, 1, L, M] bool, True where a query may attend; at least once for each query.
            causal: each query attends to the keys up to its own index; goes without a mask.
        """
        attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
        return self.out(attended.transpose(1, 2).flatten(2))

    def attend_to_past_and_new(
        self,
        query: Tensor,
        past: tuple[Tensor, Tensor],
        new: tuple[Tensor, Tensor],
        past_mask: Tensor,
        new_mask: Tensor,
    ) -> Tensor:
        """Attend to a long past and a few new tokens; return [B, L, H].

        Concatenating the two would copy the past at every step, so only the scores are joined.

        Args:
            query: [B, heads, L, D].
            past: keys and values [B, heads, M, D].
            new: keys and values [B, heads, m, D].
            past_mask: [B, M] bool, the entries of the past that exist.
            new_mask: [B, L, m] bool, the new tokens that each query may attend to; at least one.
        """
        query = query * query.shape[-1] ** -0.5
        scores = [query @ keys.transpose(-1, -2) for keys in (past[0], new[0])]
        masks = past_mask[:, None, None], new_mask[:, None]
        scores = [s.masked_fill(~m, -torch.inf) for s, m in zip(scores, masks, strict=True)]
        weight = torch.cat(scores, -1).softmax(-1)
        n_past = past_mask.shape[1]
        attended = weight[..., :n_past] @ past[1] + weight[..., n_past:] @ new[1]
        return self.out(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Two linear layers, with 2H units between them, on a normalised input of `size` H."""

    def __init__(self, size: int) -> None:
        super().__init__(
            nn.LayerNorm(size), nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)
        )


class Block(nn.Module):
    """Pre-norm transformer block: attention, then two linear layers, each added to its input.

    Args:
        size: H.
        heads: of attention.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.attention = Attention(size, heads)
        self.feed_forward = FeedForward(size)

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

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return [B, L, H] for x [B, L, H] and the result of its attention."""
        x = x + attended
        return x + self.feed_forward(x)
