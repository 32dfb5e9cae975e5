"""Matrix factorisation and logistic regression on item and user vectors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from responders.log.batch import SessionBatch
from responders.log.counts import count, logit, position_log_odds
from responders.log.session_log import SessionLog
from responders.models.base import LogShape, Responder
from responders.models.parts.items import ItemEncoder
from responders.models.parts.users import UserEncoder
from responders.models.state import State


class _Pairwise(Responder):
    """A responder that answers each item from it and the user before the slate alone."""

    def __init__(
        self,
        shape: LogShape,
        item_features: Tensor | None = None,
        *,
        embedding: str = "learned",
        embedding_size: int = 32,
        min_shown: int = 10,
        prior: float = 10.0,
    ) -> None:
        super().__init__(shape)
        self.items = ItemEncoder(
            shape.n_items, embedding_size, embedding, item_features, min_shown, prior
        )
        self.users = UserEncoder(shape.n_user_features, embedding_size)
        self.bias = nn.Parameter(torch.zeros(()))
        self._build()

    def _build(self) -> None:
        """Make the modules of the subclass, if it has any."""

    def score(self, item: Tensor, user: Tensor) -> Tensor:
        """Return log-odds [..., S] for items [..., S, d] and users [..., d], item bias apart."""
        raise NotImplementedError

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start from the training click rate; send rare items to the unknown row."""
        self.items.initialise(log, sessions)
        self.users.initialise(log, sessions)
        with torch.no_grad():
            seen, clicked = count(log, sessions)
            self.bias.copy_(logit(clicked.sum() / seen.sum()))

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the click loss and the items' prior."""
        loss, measures = super().training_loss(batch)
        rows = self.items.lookup[batch.slate[batch.shown] + 1]
        return loss + self.items.prior_loss(rows, float(self.bias.detach().sigmoid())), measures

    def start(self, user: Tensor) -> State:
        """Return the state of new users; see `Responder.start`."""
        return self.users.start(user)

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`."""
        rows = self.items.rows(slate)
        score = self.score(self.items(rows), self.users.vector(state))
        return score + self.items.bias(rows).squeeze(-1) + self.bias

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after the slate; see `Responder.observe`."""
        return self.users.observe(state, self.items(self.items.rows(slate)), click)

    def forward(self, batch: SessionBatch) -> Tensor:
        """Return log-odds [B, R, S]; see `Responder.forward`."""
        rows = self.items.rows(batch.slate)
        item = self.items(rows)
        score = self.score(item, self.users(batch.user, item, batch.click))
        return score + self.items.bias(rows).squeeze(-1) + self.bias


class MF(_Pairwise):
    """Matrix factorisation: log-odds e·u plus biases, u the mean of the items clicked so far.

    Args:
        shape: sizes of the log.
        item_features: [N, K] given item vectors for the embeddings that need them.
        embedding: learned, svd, explicit or content.
        embedding_size: d.
        min_shown: items shown less often in training share the unknown item's vector.
        prior: how many impressions the mean counts for when an item's bias is learned.
    """

    def score(self, item: Tensor, user: Tensor) -> Tensor:
        """Return e·u."""
        return torch.einsum("...sd,...d->...s", item, user)


class LogisticRegression(_Pairwise):
    """Logistic regression on the item's vector, the user's vector and the position.

    Args: as `MF`.
    """

    def _build(self) -> None:
        self.item_weight = nn.Linear(self.items.size, 1, bias=False)
        self.user_weight = nn.Linear(self.items.size, 1, bias=False)
        self.position = nn.Parameter(torch.zeros(self.shape.n_positions))

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start from the training click rates by position."""
        super().initialise(log, sessions)
        with torch.no_grad():
            self.position.copy_(position_log_odds(log, sessions) - self.bias)

    def score(self, item: Tensor, user: Tensor) -> Tensor:
        """Return the linear function of item, user and position."""
        linear = self.item_weight(item).squeeze(-1) + self.user_weight(user)
        return linear + self.position[: item.shape[-2]]
