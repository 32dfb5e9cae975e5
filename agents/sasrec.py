"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from agents.sequential import SMALL, SequenceModel, SequentialConfig, SequentialPolicy
from responders.config import Config, setting
from responders.models.parts.attention import Block


@dataclass(frozen=True)
class SASRecConfig(SequentialConfig):
    """Settings of `SASRecPolicy`."""

    heads: int = setting(2, "Attention heads; divides d into even parts.", ge=1, le=1024)


class CausalEncoder(nn.Module):
    """Transformer in which the state after an item depends on it and the items before.

    Args:
        config: the settings.
    """

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.position = nn.Embedding(config.length, config.size)
        nn.init.normal_(self.position.weight, std=SMALL)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config.size, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.size)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the states [B, L, d] after each of the items with `vectors` [B, L, d]."""
        place = torch.arange(vectors.shape[1], device=vectors.device)
        x = self.drop(vectors + self.position(place))
        for block in self.blocks:
            x = block(x, causal=True)
        return self.norm(x)


class SASRec(SequenceModel):
    """Causal transformer over the items clicked so far; scores are products with item vectors."""

    def __init__(self, n_items: int, config: SASRecConfig) -> None:
        super().__init__(n_items, config)
        self.encoder = CausalEncoder(config)

    def forward(self, item: Tensor) -> Tensor:
        return self.encoder(self.items(item.clamp(min=0)))


class SASRecPolicy(SequentialPolicy):
    """Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

    A causal transformer predicts each click from those before it. As is now usual, the loss is the
    cross-entropy over the catalogue or sampled negatives instead of the original's binary one with
    one negative, and normalisation comes before each layer.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights, training, draws, and the log of random slates.
    """

    config_class: ClassVar[type[Config]] = SASRecConfig
    config: SASRecConfig

    def network(self) -> SASRec:
        return SASRec(self.n_items, self.config)
