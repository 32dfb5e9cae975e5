"""Matrix factorisation and logistic regression on item and user vectors."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from responders.config import Config
from responders.log.batch import SessionBatch
from responders.log.counts import count, logit, position_log_odds
from responders.log.session_log import SessionLog
from responders.models.base import LogShape, Responder
from responders.models.parts.items import ItemConfig, ItemEncoder
from responders.models.parts.users import ClickedItems
from responders.models.state import State


class LinearResponder(Responder):
    """Base of the responders that score each item from its vector and the user's, one by one."""

    config_class: ClassVar[type[Config]] = ItemConfig

    def __init__(
        self, shape: LogShape, config: ItemConfig = ItemConfig(), item_vectors: Tensor | None = None
    ) -> None:
        super().__init__(shape, config)
        size = config.embedding_size
        self.items = ItemEncoder(
            shape.n_items, size, config.embedding, item_vectors,
            config.min_shown, config.prior, config.delta,
        )  # fmt: skip
        self.users = ClickedItems(shape.n_user_features, size)
        self.bias = nn.Parameter(torch.zeros(()))

    def score(self, item: Tensor, user: Tensor) -> Tensor:
        """Return log-odds [..., S], without biases, of items [..., S, d] and users [..., d]."""
        raise NotImplementedError

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start from the training click rate; find the rare items."""
        self.items.initialise(log, sessions)
        self.users.initialise(log, sessions)
        with torch.no_grad():
            seen, clicked = count(log, sessions)
            self.bias.copy_(logit(clicked.sum() / seen.sum()))

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the click loss and the loss of the items' prior."""
        loss, measures = super().training_loss(batch)
        click_rate = self.bias.detach().sigmoid()
        return loss + self.items.bias_prior_loss(batch.slate[batch.shown], click_rate), measures

    def start(self, user: Tensor) -> State:
        return self.users.start(user)

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        rows = self.items.index(slate)
        score = self.score(self.items.vector(rows), self.users.vector(state))
        return score + self.items.bias(rows) + self.bias

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        return self.users.observe(state, self.items.vector(self.items.index(slate)), click)

    def forward(self, batch: SessionBatch) -> Tensor:
        rows = self.items.index(batch.slate)
        item = self.items.vector(rows)
        score = self.score(item, self.users(batch.user, item, batch.click))
        return score + self.items.bias(rows) + self.bias


class MF(LinearResponder):
    """Matrix factorisation: log-odds e·u plus biases, u the mean of the items clicked so far.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    def score(self, item: Tensor, user: Tensor) -> Tensor:
        """Return e·u."""
        return torch.einsum("...sd,...d->...s", item, user)


class LogisticRegression(LinearResponder):
    """Logistic regression on the item's vector, the user's vector and the position.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    def __init__(
        self, shape: LogShape, config: ItemConfig = ItemConfig(), item_vectors: Tensor | None = None
    ) -> None:
        super().__init__(shape, config, item_vectors)
        self.item_weight = nn.Linear(config.embedding_size, 1, bias=False)
        self.user_weight = nn.Linear(config.embedding_size, 1, bias=False)
        self.position = nn.Parameter(torch.zeros(shape.n_positions))

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start from the training click rates by position."""
        super().initialise(log, sessions)
        with torch.no_grad():
            self.position.copy_(position_log_odds(log, sessions) - self.bias)

    def score(self, item: Tensor, user: Tensor) -> Tensor:
        """Return the linear function of item, user and position."""
        linear = self.item_weight(item).squeeze(-1) + self.user_weight(user)
        return linear + self.position[: item.shape[-2]]
