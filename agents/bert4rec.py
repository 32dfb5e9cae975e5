"""BERT4Rec: a bidirectional transformer that fills in masked items (Sun et al., CIKM 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from agents.sequences import appended, latest
from agents.sequential import SMALL, SequenceModel, SequentialConfig, SequentialPolicy
from responders.config import Config, setting
from responders.models.parts.attention import Block


@dataclass(frozen=True)
class BERT4RecConfig(SequentialConfig):
    """Settings of `BERT4RecPolicy`."""

    heads: int = setting(2, "Attention heads; divides d into even parts.", ge=1, le=1024)
    masked: float = setting(0.2, "Share of the items that is masked in training.", gt=0, lt=1)
    epochs: int = setting(100, "Most passes over the sequences.", ge=1)
    patience: int = setting(20, "Epochs without a better NDCG@10 after which to stop.", ge=1)


class BERT4Rec(SequenceModel):
    """Bidirectional transformer over the items clicked so far and a mask in place of the next."""

    def __init__(self, n_items: int, config: BERT4RecConfig) -> None:
        super().__init__(n_items, config)
        self.length, self.masked = config.length, config.masked
        self.mask = nn.Parameter(torch.randn(config.size) * SMALL)
        self.position = nn.Embedding(config.length, config.size)
        nn.init.normal_(self.position.weight, std=SMALL)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config.size, config.heads) for _ in range(config.layers))
        self.head = nn.Sequential(
            nn.LayerNorm(config.size),
            nn.Linear(config.size, config.size),
            nn.GELU(),
            nn.LayerNorm(config.size),
        )

    def forward(self, item: Tensor) -> Tensor:
        """Return the states [B, L, d] at the items [B, L], where V is a mask and -1 is none."""
        is_mask = (item == self.n_items).unsqueeze(2)
        vectors = self.items(torch.where(item == self.n_items, 0, item).clamp(min=0))
        place = torch.arange(item.shape[1], device=item.device)
        x = self.drop(torch.where(is_mask, self.mask, vectors) + self.position(place))
        visible = (item >= 0)[:, None, None].expand(-1, 1, item.shape[1], -1)
        for block in self.blocks:
            x = block(x, mask=visible)
        return self.head(x)

    def loss(self, item: Tensor, skipped: Tensor) -> Tensor:
        if item.shape[1] > self.length:
            item = latest(item)
        exists = item >= 0
        is_masked = exists & (torch.rand(item.shape, device=item.device) < self.masked)
        # Without a mask there would be nothing to learn; the last place is where it is needed.
        is_last = exists & (exists.cumsum(1) == exists.sum(1, keepdim=True))
        is_masked |= is_last & ~is_masked.any(1, keepdim=True)
        state = self(item.masked_fill(is_masked, self.n_items))
        return self.cross_entropy(state, item.masked_fill(~is_masked, -1))

    def last_state(self, item: Tensor) -> Tensor:
        if item.shape[1] < self.length:
            item = nn.functional.pad(item, (0, 1), value=-1)
        mask = item.new_full((len(item),), self.n_items)
        return super().last_state(appended(item, mask))


class BERT4RecPolicy(SequentialPolicy):
    """Bidirectional transformer that fills in masked items (Sun et al., CIKM 2019).

    A random share of the items of each sequence is masked and predicted from those on both sides;
    where the draw masks none, the last one is. To predict the next click, a mask follows the
    history. Fewer items are predicted in a step than by the other models, so it needs more epochs.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights, training, draws, and the log of random slates.
    """

    config_class: ClassVar[type[Config]] = BERT4RecConfig
    config: BERT4RecConfig

    def network(self) -> BERT4Rec:
        return BERT4Rec(self.n_items, self.config)
