"""What all neural responders share: items, the readout, and the next-click head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.config import Config, setting
from responders.errors import InputError
from responders.log.batch import SessionBatch
from responders.log.session_log import SessionLog
from responders.models.base import (
    LARGEST_TABLE,
    LogShape,
    Responder,
    Response,
    average_over_draws,
    click_loss,
)
from responders.models.parts.items import ItemConfig, ItemEncoder
from responders.models.parts.readout import Readout
from responders.models.parts.session_context import SessionContext, SessionTables
from responders.models.parts.users import ClickedItems
from responders.models.state import State


@dataclass(frozen=True)
class NeuralConfig(ItemConfig):
    """Settings of all neural responders."""

    hidden_size: int = setting(64, "H, units of the hidden state.", ge=1, le=8192)
    match: bool = setting(True, "Add the match of items and users to the network's log-odds.")
    exposure: bool = setting(
        True, "Subtract what earlier showings of the item and its like take from its odds."
    )
    exposure_window: int = setting(
        5, "W, last slates in which showings of the same item count.", ge=1, le=100
    )
    activation: bool = setting(
        False, "Add the base-level activation of items that the user clicked before (ACT-R)."
    )
    examination: bool = setting(
        True, "Bound the probability at each position by a chance that it is looked at."
    )
    dropout: float = setting(
        0.3, "Share of sessions that training scores without the network.", ge=0, lt=1
    )
    next_click: float = setting(
        0.0, "Weight of the next-click loss; 0 = the responder has no such head.", ge=0
    )
    next_skip: float = setting(
        0.0, "Weight of the contrast of clicked with skipped items, by the same head.", ge=0
    )


class Prepared(NamedTuple):
    """What stepping looks up while the weights do not change."""

    session: SessionTables
    network: Any  # from `NeuralResponder.tabulate_network`


class Evaluation(NamedTuple):
    """A batch of sessions, evaluated in parallel."""

    logits: Tensor  # [B, R, S] log-odds of a click
    memory: Tensor | None  # [B, R, M] before each slate, as `NeuralResponder.memory` gives it


class NeuralResponder(Responder):
    """Base of the neural responders.

    Subclasses evaluate whole sessions in `evaluate` and say in `memory` what they remember of a
    user between slates. All add `self.session`, a `SessionContext`, to the log-odds of their
    networks and finish them by `Readout.finish`.

    With `next_click` > 0 a second head predicts from the memory which item of the whole catalogue
    is clicked next. Its softmax cross-entropy, times `next_click`, is added to the training loss.
    With `next_skip` > 0 the head also learns to rank what is clicked in the coming slate above what
    is skipped there.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
        memory_size: M.
    """

    config_class: ClassVar[type[Config]] = NeuralConfig

    def __init__(
        self, shape: LogShape, config: NeuralConfig, item_vectors: Tensor | None, memory_size: int
    ) -> None:
        super().__init__(shape, config)
        size = config.embedding_size
        self.hidden_size = config.hidden_size
        self.next_click, self.next_skip = config.next_click, config.next_skip
        self.items = ItemEncoder(
            shape.n_items, size, config.embedding, item_vectors,
            config.min_shown, config.prior, config.delta,
        )  # fmt: skip
        self.readout = Readout(
            size,
            shape.n_positions,
            config.hidden_size,
            self.reads_clicks_above,
            config.examination,
            config.dropout,
        )
        self.session = SessionContext(
            shape.n_positions, shape.n_user_features, self.items,
            config.match, config.exposure_window if config.exposure else 0, config.activation,
        )  # fmt: skip
        has_head = config.next_click or config.next_skip
        self.next_click_head = nn.Linear(memory_size, size) if has_head else None

    def marginal(self, state: State, slate: Tensor) -> Tensor:
        if not self.reads_clicks_above:
            return super().marginal(state, slate)
        # What the session adds is the same for all draws of the slate's clicks.
        offset = self.session_log_odds(state, slate)
        return average_over_draws(self.respond, state, slate, offset)

    def respond(
        self, state: State, slate: Tensor, uniform: Tensor, offset: Tensor | None = None
    ) -> Response:
        """Draw the clicks of B users on `slate`; see `Responder.respond`.

        Args:
            state: of B users, before the slate.
            slate: [B, S].
            uniform: [B, S] in [0, 1).
            offset: [B, S] `session_log_odds`, where they are known; read where clicks above are.
        """
        return super().respond(state, slate, uniform)

    def finish(
        self, log_odds: Tensor, state: State, slate: Tensor, click: Tensor | None = None
    ) -> Tensor:
        """Return the log-odds [B, S] of a click, of those that the network gives for a slate.

        Args:
            log_odds: [B, S], of the network and the biases.
            state: before the slate.
            slate: [B, S].
            click: [B, S], the given clicks; None where clicks are not read.
        """
        log_odds = log_odds + self.session_log_odds(state, slate)
        return self.readout.finish(log_odds, slate >= 0, click)

    def finish_batch(self, log_odds: Tensor, batch: SessionBatch) -> Tensor:
        """Return the log-odds [B, R, S] of a click, of those that the network gives."""
        log_odds = log_odds.view(batch.slate.shape) + self.session.parallel(self.items, batch)
        click = batch.click if self.reads_clicks_above else None
        return self.readout.finish(log_odds, batch.shown, click)

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions in parallel; the memory may be None without a next-click head."""
        raise NotImplementedError

    def memory(self, state: State) -> Tensor:
        """Return what is remembered of the users, [B, M]."""
        raise NotImplementedError

    def forward(self, batch: SessionBatch) -> Tensor:
        return self.evaluate(batch).logits

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start from the training click rates by position; find the rare items."""
        for module in self.children():
            initialise = getattr(module, "initialise", None)
            if callable(initialise):
                initialise(log, sessions)
        if self.session.exposure is not None:
            self.session.exposure.place_centres(self.items)

    def tabulate(self) -> Prepared | None:
        """Return what stepping looks up of every item; see `Responder.tabulate`."""
        if self.items.n_rows > LARGEST_TABLE:
            return None
        return Prepared(self.session.tables(self.items), self.tabulate_network())

    def tabulate_network(self) -> Any:
        """Return the products of the network's weights with every item; None = there are none."""
        return None

    @property
    def looked_up(self) -> Prepared | tuple[None, None]:
        """What `tabulate` returned, for the session and the network; None unless it can be used."""
        return self.prepared or (None, None)

    def observe_session(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state of the session context after clicks [B, S] on a slate [B, S]."""
        return self.session.observe(state["session"], self.items, slate, click, self.looked_up[0])

    def session_log_odds(self, state: State, slate: Tensor) -> Tensor:
        """Return the log-odds [B, S] that the session context adds."""
        return self.session(state["session"], self.items, slate, self.looked_up[0])

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of clicks, of the items' prior, and of next clicks and skips."""
        evaluation = self.evaluate(batch)
        extra, measures = self.extra_loss(batch, evaluation.memory)
        return click_loss(evaluation.logits, batch) + extra, measures

    def extra_loss(
        self, batch: SessionBatch, memory: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what is added to the click loss: the items' prior, next clicks and skips."""
        loss, measures = self.next_click_loss(batch, memory)
        contrast, more = self.next_skip_loss(batch, memory)
        click_rate = batch.click_rate.clamp(1e-4, 1 - 1e-4)
        shown = batch.slate[batch.shown]
        prior = self.items.bias_prior_loss(shown, click_rate)
        if self.session.exposure is not None:
            prior = prior + self.session.exposure.prior_loss(self.items, shown)
        return loss + contrast + prior, measures | more

    def next_click_loss(
        self, batch: SessionBatch, memory: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted next-click loss, summed over clicks, and its mean to log.

        Args:
            batch: of sessions.
            memory: [B, R, M] before each slate; None without the head.
        """
        if self.next_click_head is None or memory is None or not self.next_click:
            return batch.click.new_zeros(()), {}
        from responders.kernels import linear_cross_entropy  # slow to import; no world needs it

        b, r, s = torch.nonzero(batch.click > 0, as_tuple=True)
        target = self.items.index(batch.slate[b, r, s], replace_some=False)
        target = self.items.vector_row[target]
        target = torch.where(target == self.items.unknown, -100, target)
        known = torch.arange(self.shape.n_items, device=target.device)
        loss = linear_cross_entropy(
            self.next_click_head(memory[b, r]), self.items.vector(known), target, reduction="sum"
        )
        mean = loss.detach() / (target >= 0).sum().clamp(min=1)
        return self.next_click * loss, {"next_click_loss": mean}

    def next_skip_loss(
        self, batch: SessionBatch, memory: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted contrast of clicks with skips, summed over clicks, and its mean.

        It is −log(exp(s) / (exp(s) + Σ exp(sₖ))) for each click, where s is the head's score of the
        clicked item and sₖ are those of the items skipped in the same slate: the contrastive term
        of Ivanova et al. (arXiv:2508.14786), over one slate instead of all that the user skipped.

        Args:
            batch: of sessions.
            memory: [B, R, M] before each slate; None without the head.
        """
        if self.next_click_head is None or memory is None or not self.next_skip:
            return batch.click.new_zeros(()), {}
        item = self.items.vector(self.items.index(batch.slate, replace_some=False))
        score = torch.einsum("brd,brsd->brs", self.next_click_head(memory), item)
        clicked = batch.click > 0
        # A finite number, because the gradient of logsumexp is not defined where all are -inf.
        skipped = score.masked_fill(clicked | ~batch.shown, -1e4).logsumexp(2, keepdim=True)
        losses = F.softplus(skipped - score)[clicked]
        mean = losses.detach().sum() / clicked.sum().clamp(min=1)
        return self.next_skip * losses.sum(), {"next_skip_loss": mean}

    def next_click_logits(self, state: State) -> Tensor:
        """Return the next-click scores [B, N] of all items: log-odds up to a constant per user.

        Raises:
            InputError: the responder was built with next_click=0 and next_skip=0.
        """
        if self.next_click_head is None:
            raise InputError("this responder has no next-click head: train it with next_click > 0")
        items = torch.arange(self.shape.n_items, device=self.items.bias_table.weight.device)
        vectors = self.items.vector(self.items.index(items, replace_some=False))
        return self.next_click_head(self.memory(state)) @ vectors.t()


class ClickMemory:
    """For responders that remember of earlier slates only the items that were clicked."""

    users: ClickedItems
    items: ItemEncoder
    session: SessionContext
    observe_session: Callable[[State, Tensor, Tensor], State]

    def start(self, user: Tensor) -> State:
        return {"user": self.users.start(user), "session": self.session.start(user)}

    def memory(self, state: State) -> Tensor:
        """Return the users' vectors [B, d]."""
        return self.users.vector(state["user"])

    hidden = memory

    def with_hidden(self, state: State, hidden: Tensor) -> State:
        features = state["user"]["features"] + hidden - self.hidden(state)
        return state | {"user": state["user"] | {"features": features}}

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        item = self.items.vector(self.items.index(slate))
        return {
            "user": self.users.observe(state["user"], item, click),
            "session": self.observe_session(state, slate, click),
        }
