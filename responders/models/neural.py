"""What all neural responders share: item vectors, the readout, and the next-click head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from responders.errors import InputError
from responders.kernels import linear_cross_entropy
from responders.log.batch import SessionBatch
from responders.log.session_log import SessionLog
from responders.models.base import LogShape, Responder, click_loss
from responders.models.parts.items import ItemEncoder
from responders.models.parts.readout import Readout
from responders.models.parts.session_context import SessionContext
from responders.models.state import State


class Evaluation(NamedTuple):
    """What a neural responder says of a batch of sessions."""

    logits: Tensor  # [B, R, S] log-odds of a click
    memory: Tensor | None  # [B, R, M] what it remembers before each slate; for the next-click head


class NeuralResponder(Responder):
    """Base of the neural responders.

    Subclasses make their modules in `_build`, evaluate whole sessions in `evaluate`, keep their
    state in `_start` and `_observe`, and say in `memory` what they remember of a user between
    slates. All add `self.session`, a `SessionContext`, to their log-odds. With `next_click` > 0 a
    second head predicts from that memory which items of the whole catalogue are clicked next, a
    softmax whose cross-entropy, times `next_click`, is added to the training loss.

    Args:
        shape: sizes of the log.
        item_features: [N, K] given item vectors for the embeddings that need them.
        embedding: learned, svd, explicit or content.
        embedding_size: d.
        min_shown: items shown less often in training share the unknown item's vector.
        prior: how many impressions the mean counts for when an item's bias is learned.
        hidden_size: H, units of the network.
        next_click: weight of the next-click loss.
    """

    def __init__(
        self,
        shape: LogShape,
        item_features: Tensor | None = None,
        *,
        embedding: str = "learned",
        embedding_size: int = 32,
        min_shown: int = 10,
        prior: float = 10.0,
        hidden_size: int = 64,
        next_click: float = 0.0,
    ) -> None:
        super().__init__(shape)
        self.items = ItemEncoder(
            shape.n_items, embedding_size, embedding, item_features, min_shown, prior
        )
        self.readout = Readout(
            embedding_size, shape.n_positions, hidden_size, self.reads_clicks_above
        )
        self.session = SessionContext()
        self.hidden_size, self.next_click = hidden_size, next_click
        memory_size = self._build()
        self.pick = nn.Linear(memory_size, embedding_size) if next_click else None

    def _build(self) -> int:
        """Make the modules of the subclass; return M, the size of its memory."""
        raise NotImplementedError

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions at once."""
        raise NotImplementedError

    def _start(self, user: Tensor) -> State:
        """Return the subclass's state of new users with features [B, F]."""
        raise NotImplementedError

    def _observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the subclass's state after a slate."""
        raise NotImplementedError

    def start(self, user: Tensor) -> State:
        """Return the state of new users; see `Responder.start`."""
        return self._start(user) | self.session.start(user)

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after the slate; see `Responder.observe`."""
        return self._observe(state, slate, click) | self.session.observe(state, slate, click)

    def memory(self, state: State) -> Tensor:
        """Return what is remembered of the users, [B, M]."""
        raise NotImplementedError

    def forward(self, batch: SessionBatch) -> Tensor:
        """Return log-odds [B, R, S]; see `Responder.forward`."""
        return self.evaluate(batch).logits

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start from the training click rates by position; send rare items to the unknown row."""
        for module in self.children():
            initialise = getattr(module, "initialise", None)
            if callable(initialise):
                initialise(log, sessions)

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of clicks, and of next clicks where asked for."""
        found = self.evaluate(batch)
        extra, measures = self.extra_loss(batch, found.memory)
        return click_loss(found.logits, batch) + extra, measures

    def extra_loss(
        self, batch: SessionBatch, memory: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what is added to the click loss: the items' prior and the next-click loss."""
        loss, measures = self.next_click_loss(batch, memory)
        shown = batch.shown
        mean = float(batch.click[shown].mean().clamp(1e-4, 1 - 1e-4))
        return loss + self.items.prior_loss(
            self.items.lookup[batch.slate[shown] + 1], mean
        ), measures

    def next_click_loss(
        self, batch: SessionBatch, memory: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted next-click loss, summed over clicks, and its mean to log.

        Args:
            batch: of sessions.
            memory: [B, R, M] before each slate; None without the head.
        """
        if self.pick is None or memory is None:
            return batch.click.new_zeros(()), {}
        b, r, s = torch.nonzero(batch.click > 0, as_tuple=True)
        target = self.items.vector_row[self.items.lookup[batch.slate[b, r, s] + 1]]
        target = torch.where(target == self.items.unknown, -100, target)
        known = torch.arange(self.shape.n_items, device=target.device)
        next_loss = linear_cross_entropy(
            self.pick(memory[b, r]), self.items(known), target, reduction="sum"
        )
        mean = next_loss.detach() / (target >= 0).sum().clamp(min=1)
        return self.next_click * next_loss, {"next_click_loss": mean}

    def next_click_logits(self, state: State) -> Tensor:
        """Return the next-click scores [B, N] of all items: log-odds up to a constant of the user.

        Raises:
            InputError: the responder was built with next_click=0.
        """
        if self.pick is None:
            raise InputError("this responder has no next-click head: train it with next_click > 0")
        rows = self.items.lookup[1:]
        return self.pick(self.memory(state)) @ self.items(rows).t()
