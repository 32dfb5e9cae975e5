"""PNFRec: what users click and what they pass over, as two sequences (Ivanova et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.sasrec import CausalEncoder, SASRecConfig
from agents.sequential import SequenceModel, SequentialPolicy
from responders.config import Config, setting


@dataclass(frozen=True)
class PNFRecConfig(SASRecConfig):
    """Settings of `PNFRecPolicy`."""

    skips: float = setting(1.0, "Weight of predicting the next skipped item.", ge=0)
    contrast: float = setting(1.0, "Weight of the contrastive term.", ge=0)


class PNFRec(SequenceModel):
    """Two causal transformers, over clicked and over skipped items, which share item vectors."""

    def __init__(self, n_items: int, config: PNFRecConfig) -> None:
        super().__init__(n_items, config)
        self.skips, self.contrast = config.skips, config.contrast
        self.clicked_encoder, self.skipped_encoder = CausalEncoder(config), CausalEncoder(config)

    def forward(self, item: Tensor) -> Tensor:
        return self.clicked_encoder(self.items(item.clamp(min=0)))

    def loss(self, item: Tensor, skipped: Tensor) -> Tensor:
        state, target = self(item[:, :-1]), item[:, 1:]
        loss = self.cross_entropy(state, target)
        if not (skipped >= 0).any():
            return loss
        skipped_state = self.skipped_encoder(self.items(skipped[:, :-1].clamp(min=0)))
        loss = loss + self.skips * self.cross_entropy(skipped_state, skipped[:, 1:])
        return loss + self.contrast * self.contrastive(state, target, skipped)

    def contrastive(self, state: Tensor, target: Tensor, skipped: Tensor) -> Tensor:
        """Return the mean of −log(exp(s) / (exp(s) + Σ exp(sₖ))) over targets, 0 without any.

        s is the score of the target, and sₖ are the scores of the items that the user skipped,
        without the target itself.

        Args:
            state: [B, L, d], before each target.
            target: [B, L] int64, clicked items, -1 = none.
            skipped: [B, M] int64, -1 = none.
        """
        own = (state * self.items(target.clamp(min=0))).sum(2, keepdim=True)
        others = state @ self.items(skipped.clamp(min=0)).transpose(1, 2)
        counts = (skipped.unsqueeze(1) >= 0) & (skipped.unsqueeze(1) != target.unsqueeze(2))
        logits = torch.cat([own, others.masked_fill(~counts, -torch.inf)], 2)
        has_target = target >= 0
        losses = -logits.log_softmax(2)[..., 0].masked_fill(~has_target, 0.0)
        return losses.sum() / has_target.sum().clamp(min=1)


class PNFRecPolicy(SequentialPolicy):
    """Learns from clicks and from items that were passed over (Ivanova et al., RecSys 2025).

    As in SASRec, a causal transformer over the clicked items predicts the next click. In training,
    a second one over the items that were shown and not clicked predicts the next of these, and a
    contrastive term ranks each click above all items that the same user skipped (arXiv:2508.14786).
    So skipped items change the item vectors and the first transformer, which alone chooses slates.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights, training, draws, and the log of random slates.
    """

    config_class: ClassVar[type[Config]] = PNFRecConfig
    config: PNFRecConfig

    def network(self) -> PNFRec:
        return PNFRec(self.n_items, self.config)
