"""Recurrent responders (arXiv 2409.20055): a GRU reads the positions of a slate in order.

SlateGRU starts every slate from the user's vector, SessionGRU carries its hidden state from slate
to slate, HierarchicalGRU starts a slate from the mean of the states of the slate before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from responders.compiling import are_few
from responders.config import Config, setting
from responders.log.batch import SessionBatch
from responders.models.base import LogShape, Response, click_probability
from responders.models.neural import (
    ClickMemory,
    Evaluation,
    NeuralConfig,
    NeuralResponder,
    Prepared,
)
from responders.models.parts.click_gru import (
    ClickGRU,
    Reading,
    SlateInputs,
    Tables,
    last_row_if_clicked,
)
from responders.models.parts.packing import (
    last_click_above,
    last_item_if_clicked,
    positions_of,
    states_before_slates,
)
from responders.models.parts.users import ClickedItems, UserProjection
from responders.models.state import State

if TYPE_CHECKING:
    from responders.models.compiled.recurrent import CompiledGRU

TEMPERATURE = 0.3
"""Of the binary-concrete clicks that let a gradient through (arXiv 2409.20055)."""


class RecurrentResponder(NeuralResponder):
    """Base of the recurrent responders: items, a `ClickGRU` and its tables."""

    reads_clicks_above = True

    def __init__(
        self, shape: LogShape, config: NeuralConfig, item_vectors: Tensor | None, memory_size: int
    ) -> None:
        super().__init__(shape, config, item_vectors, memory_size)
        self.gru = ClickGRU(shape.n_positions, config.embedding_size, config.hidden_size)

    def tabulate_network(self) -> Tables:
        """Return the products of the GRU's weights with every item."""
        return self.gru.tables(self.items, self.readout)

    @property
    def tables(self) -> Tables | None:
        """The prepared products, None unless they can be used."""
        return self.looked_up[1]

    def inputs(self, slate: Tensor) -> SlateInputs:
        """Return what reading slates [B, S] needs of items and positions."""
        return self.gru.inputs(self.items, self.readout, slate, self.tables)

    def clicked_input(self, rows: Tensor) -> Tensor:
        """Return the gate input [B, 3H] of items (table rows [B]) clicked before a slate."""
        return self.gru.clicked_input(self.items, rows, self.tables)


ReadoutKind = Literal["teacher", "threshold", "soft", "sample", "differentiable_sample"]


@dataclass(frozen=True)
class SlateGRUConfig(NeuralConfig):
    """Settings of `SlateGRU`."""

    readout: ReadoutKind = setting(
        "teacher", "The click that the next position reads during training."
    )


class SlateGRU(ClickMemory, RecurrentResponder):
    """A GRU over the positions of one slate; it starts from the mean of the items clicked so far.

    The setting `readout` chooses which click the next position reads during training: the logged
    one (`teacher`), or the model's own, so that training meets what simulation meets: `threshold`
    (probability over one half), `soft` (the probability), `sample` (a draw without gradient),
    `differentiable_sample` (a binary-concrete draw, temperature 0.3). With `threshold` and `soft`
    the model never reads a click of the slate, neither in training nor in simulation; with the
    draws it is trained, and simulates, on clicks that it drew itself.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = SlateGRUConfig

    def __init__(
        self,
        shape: LogShape,
        config: SlateGRUConfig = SlateGRUConfig(),
        item_vectors: Tensor | None = None,
    ) -> None:
        super().__init__(shape, config, item_vectors, memory_size=config.embedding_size)
        self.users = ClickedItems(shape.n_user_features, config.embedding_size)
        self.initial = nn.Linear(config.embedding_size, config.hidden_size)
        self.training_readout = config.readout
        self.reads_clicks_above = config.readout not in ("threshold", "soft")

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        hidden, offset = (
            self.initial(self.memory(state)).tanh(),
            self.session_log_odds(state, slate),
        )
        if click is None or not self.reads_clicks_above:
            return self._read_soft(hidden, slate, offset).logits
        return self.gru.read(self.inputs(slate), hidden, None, offset, click=click).logits

    def respond(
        self, state: State, slate: Tensor, uniform: Tensor, offset: Tensor | None = None
    ) -> Response:
        if not self.reads_clicks_above:
            return super().respond(state, slate, uniform)
        offset = self.session_log_odds(state, slate) if offset is None else offset
        hidden = self.initial(self.memory(state)).tanh()
        reading = self.gru.read(self.inputs(slate), hidden, None, offset, uniform=uniform)
        probability = click_probability(reading.logits, slate)
        return Response(reading.click, probability, self.observe(state, slate, reading.click))

    def _read_soft(self, hidden: Tensor, slate: Tensor, offset: Tensor) -> Reading:
        weight = above_half if self.training_readout == "threshold" else torch.sigmoid
        return self.gru.read_soft(self.inputs(slate), hidden, None, offset, click_weight=weight)

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions in parallel."""
        b, r, s = batch.slate.shape
        rows = self.items.index(batch.slate)
        users = self.users(batch.user, self.items.vector(rows), batch.click)
        flat, slate = users.reshape(b * r, -1), batch.slate.view(b * r, s)
        teacher = self.training_readout == "teacher" or not self.training
        if teacher and self.reads_clicks_above:
            click = batch.click.view(b * r, s)
            logits, _ = self.gru.parallel(
                self.items,
                self.readout,
                self.initial(flat).tanh(),
                rows.view(b * r, s),
                positions_of(click),
                click,
                last_click_above(click, self.shape.n_positions),
            )
            return Evaluation(self.finish_batch(logits, batch), users)
        offset = self.session.parallel(self.items, batch).view(b * r, s)
        if teacher:
            logits = self._read_soft(self.initial(flat).tanh(), slate, offset).logits
        else:
            logits = self.read_own_clicks(flat, slate, offset).logits
        return Evaluation(logits.view(b, r, s), users)

    def read_own_clicks(self, users: Tensor, slate: Tensor, offset: Tensor) -> Reading:
        """Read slates [B, S] for users with vectors [B, d], as `readout` says for training.

        `offset` [B, S] is added to the log-odds. The clicks are draws, relaxed draws, or the
        weights of the soft readouts.
        """
        hidden, readout = self.initial(users).tanh(), self.training_readout
        if readout == "sample":
            uniform = torch.rand(slate.shape, device=slate.device)
            return self.gru.read(self.inputs(slate), hidden, None, offset, uniform=uniform)
        if readout in ("threshold", "soft"):
            return self._read_soft(hidden, slate, offset)
        return self.gru.read_soft(
            self.inputs(slate), hidden, None, offset, click_weight=relaxed_draw
        )


def above_half(log_odds: Tensor) -> Tensor:
    """Return 1 where the probability is above one half, else 0."""
    return (log_odds > 0).to(log_odds.dtype)


def relaxed_draw(log_odds: Tensor) -> Tensor:
    """Return differentiable draws in (0, 1) from the binary-concrete distribution."""
    noise = torch.rand_like(log_odds).clamp(1e-6, 1 - 1e-6)
    return ((log_odds + torch.logit(noise)) / TEMPERATURE).sigmoid()


class CarriedGRU(RecurrentResponder):
    """Base of the responders that carry a hidden state from slate to slate.

    It starts from the user's features, from zeros where the log has none. Subclasses say in
    `carry` which hidden state a slate leaves.
    """

    carries_mean: ClassVar[bool]
    """Whether that is the mean of the slate's hidden states, not the last one."""

    def __init__(
        self,
        shape: LogShape,
        config: NeuralConfig = NeuralConfig(),
        item_vectors: Tensor | None = None,
    ) -> None:
        memory_size = config.hidden_size + config.embedding_size
        super().__init__(shape, config, item_vectors, memory_size)
        self.initial = UserProjection(shape.n_user_features, config.hidden_size)
        self._compiled: tuple[Prepared, CompiledGRU] | None = None

    def carry(self, reading: Reading, filled: Tensor | None, before: Tensor) -> Tensor:
        """Return the hidden state [B, H] after a slate.

        Args:
            reading: of the slate.
            filled: [S, B] bool; None where no position is empty.
            before: [B, H], the state before the slate.
        """
        raise NotImplementedError

    def start(self, user: Tensor) -> State:
        return {
            "hidden": self.initial(user).tanh(),
            "above": torch.full((len(user),), self.items.empty, device=user.device),
            "session": self.session.start(user),
        }

    def hidden(self, state: State) -> Tensor:
        """Return the hidden state that is carried from slate to slate, [B, H]."""
        return state["hidden"]

    def with_hidden(self, state: State, hidden: Tensor) -> State:
        return state | {"hidden": hidden}

    def memory(self, state: State) -> Tensor:
        """Return the hidden state and the vector of the last item if it was clicked, [B, H + d]."""
        return torch.cat([state["hidden"], self.items.vector(state["above"])], -1)

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        inputs, above = self.inputs(slate), self.clicked_input(state["above"])
        hidden, offset = state["hidden"], self.session_log_odds(state, slate)
        if click is None:
            return self.gru.read_soft(inputs, hidden, above, offset).logits
        return self.gru.read(inputs, hidden, above, offset, click=click).logits

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        inputs, above = self.inputs(slate), self.clicked_input(state["above"])
        reading = self.gru.read(inputs, state["hidden"], above, click=click)
        return self._after(state, slate, inputs, reading)

    def respond(
        self, state: State, slate: Tensor, uniform: Tensor, offset: Tensor | None = None
    ) -> Response:
        compiled = self._compiled_for(slate)
        if compiled is not None:
            return compiled(state, slate, uniform, offset)
        inputs, above = self.inputs(slate), self.clicked_input(state["above"])
        offset = self.session_log_odds(state, slate) if offset is None else offset
        reading = self.gru.read(inputs, state["hidden"], above, offset, uniform=uniform)
        probability = click_probability(reading.logits, slate)
        after = self._after(state, slate, inputs, reading)
        return Response(reading.click, probability, after)

    def _compiled_for(self, slate: Tensor) -> CompiledGRU | None:
        """Return the compiled form of `respond` where it is faster: for few users, prepared.

        It lacks the base-level activation.
        """
        prepared = self.prepared
        if prepared is None or self.session.activation is not None or not are_few(slate):
            return None
        if self._compiled is None or self._compiled[0] is not prepared:
            from responders.models.compiled.recurrent import CompiledGRU  # imports numba

            weights = self.gru.recurrent_weights()
            step = CompiledGRU(self.items, self.session, prepared, weights, self.carries_mean)
            self._compiled = prepared, step
        return self._compiled[1]

    def _after(self, state: State, slate: Tensor, inputs: SlateInputs, reading: Reading) -> State:
        click, rows = reading.click, inputs.rows
        if inputs.filled is None:
            above = torch.where(click[:, -1], rows[-1], self.items.empty)
        else:
            above = last_row_if_clicked(rows.t(), click, self.items.empty, state["above"])
        return {
            "hidden": self.carry(reading, inputs.filled, state["hidden"]),
            "above": above,
            "session": self.observe_session(state, slate, click),
        }


class SessionGRU(CarriedGRU):
    """One GRU through all positions of all slates of the session, in order.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    carries_mean = False

    def carry(self, reading: Reading, filled: Tensor | None, before: Tensor) -> Tensor:
        """Return the state after the last position."""
        return reading.states[-1]

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions in parallel."""
        b, r, s = batch.slate.shape
        rows = self.items.index(batch.slate).view(b, r * s)
        hidden, click = self.initial(batch.user).tanh(), batch.click.reshape(b, r * s)
        logits, states = self.gru.parallel(
            self.items,
            self.readout,
            hidden,
            rows,
            positions_of(batch.slate).reshape(b, r * s),
            click,
            last_click_above(batch.click, self.shape.n_positions).view(b, r * s),
        )
        logits = self.finish_batch(logits, batch)
        if self.next_click_head is None:
            return Evaluation(logits, None)
        last_item = last_item_if_clicked(self.items.vector(rows), click, batch.shown)
        carried = states_before_slates(states, hidden, batch.shown)
        return Evaluation(logits, torch.cat([carried, last_item], -1))


class HierarchicalGRU(CarriedGRU):
    """A GRU inside the slate; the mean of its states is the session state that starts the next.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    carries_mean = True

    def carry(self, reading: Reading, filled: Tensor | None, before: Tensor) -> Tensor:
        """Return the mean of the states after the filled positions; unchanged without any."""
        states = torch.stack(reading.states)
        if filled is None:
            return states.mean(0)
        n = filled.sum(0).unsqueeze(1)
        mean = (states * filled.unsqueeze(2)).sum(0) / n.clamp(min=1)
        return torch.where(n > 0, mean, before)

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions, one slate after the other."""
        rows = self.items.index(batch.slate)
        state, logits, memories = self.start(batch.user), [], []
        for r in range(rows.shape[1]):
            memories.append(self.memory(state))
            slate_logits, state = self._parallel_slate(state, rows[:, r], batch.click[:, r])
            logits.append(slate_logits)
        whole = self.finish_batch(torch.stack(logits, 1), batch)
        return Evaluation(whole, torch.stack(memories, 1))

    def _parallel_slate(self, state: State, rows: Tensor, click: Tensor) -> tuple[Tensor, State]:
        """Return the log-odds [B, S] of one slate, not finished, and the state after it."""
        hidden, above = state["hidden"], state["above"]
        logits, states = self.gru.parallel(
            self.items,
            self.readout,
            hidden,
            rows,
            positions_of(rows),
            click,
            last_click_above(click, self.shape.n_positions),
            self.items.vector(above),
        )
        n = (rows != self.items.empty).sum(1, keepdim=True)
        inside = torch.arange(states.shape[1], device=rows.device) < n
        mean = (states * inside.unsqueeze(-1)).sum(1) / n.clamp(min=1)
        return logits, {
            "hidden": torch.where(n > 0, mean, hidden),
            "above": last_row_if_clicked(rows, click, self.items.empty, above),
        }
