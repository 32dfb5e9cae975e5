"""GRU4Rec: a recurrent network over sessions (Hidasi et al., ICLR 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from agents.sequential import SequenceModel, SequentialConfig, SequentialPolicy
from responders.config import Config, setting


@dataclass(frozen=True)
class GRU4RecConfig(SequentialConfig):
    """Settings of `GRU4RecPolicy`."""

    layers: int = setting(1, "Layers of the network.", ge=1, le=100)
    learning_rate: float = setting(0.003, "Of Adam.", gt=0)


class GRU4Rec(SequenceModel):
    """GRU over the items clicked so far; scores are products with item vectors."""

    def __init__(self, n_items: int, config: GRU4RecConfig) -> None:
        super().__init__(n_items, config, config.size**-0.5)
        self.drop = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.size, config.size, config.layers, batch_first=True)

    def forward(self, item: Tensor) -> Tensor:
        state, _ = self.gru(self.drop(self.items(item.clamp(min=0))))
        return state


class GRU4RecPolicy(SequentialPolicy):
    """Recurrent network over sessions (Hidasi et al., ICLR 2016).

    A GRU predicts each click from those before it. The loss is the cross-entropy over the catalogue
    or sampled negatives, one of those of Hidasi and Karatzoglou (CIKM 2018), and items have one
    vector as inputs and outputs, which they call constrained embeddings.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights, training, draws, and the log of random slates.
    """

    config_class: ClassVar[type[Config]] = GRU4RecConfig
    config: GRU4RecConfig

    def network(self) -> GRU4Rec:
        return GRU4Rec(self.n_items, self.config)
