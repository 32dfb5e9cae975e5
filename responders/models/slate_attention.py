"""Attention among the items of a slate: SlateTransformer and TransformerGRU (arXiv 2409.20055).

Both see the whole slate at once and none of its clicks: given the history, the clicks of a slate
are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.config import Config, setting
from responders.log.batch import SessionBatch
from responders.models.base import LogShape, Response, click_probability
from responders.models.neural import ClickMemory, Evaluation, NeuralConfig, NeuralResponder
from responders.models.parts.attention import Block
from responders.models.parts.packing import (
    gather,
    packed_order,
    positions_of,
    states_before_slates,
)
from responders.models.parts.users import ClickedItems, UserProjection
from responders.models.state import State


@dataclass(frozen=True)
class SlateAttentionConfig(NeuralConfig):
    """Settings of the responders that attend among the items of a slate."""

    layers: int = setting(1, "Transformer blocks.", ge=1, le=64)
    heads: int = setting(4, "Attention heads.", ge=1, le=64)


class SlateAttention(nn.Module):
    """Self-attention among the items of each slate.

    Args:
        n_positions: S.
        item_size: d.
        config: the settings.
    """

    def __init__(self, n_positions: int, item_size: int, config: SlateAttentionConfig) -> None:
        super().__init__()
        self.position = nn.Embedding(n_positions, item_size)
        nn.init.normal_(self.position.weight, std=0.1)
        size, heads = config.hidden_size, config.heads
        blocks = nn.ModuleList(Block(size, heads) for _ in range(config.layers))
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor, filled: Tensor) -> Tensor:
        """Return [B, S, H] of x [B, S, H]; filled positions [B, S] bool attend to each other."""
        itself = torch.eye(filled.shape[1], dtype=torch.bool, device=x.device)
        mask = (filled.unsqueeze(1) | itself).unsqueeze(1)  # softmax needs at least one entry
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.norm(x)


class SlateTransformer(ClickMemory, NeuralResponder):
    """Self-attention among the items of one slate, each joined with the vector of its user.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = SlateAttentionConfig
    learning_rate: ClassVar[float] = 1e-3

    def __init__(
        self,
        shape: LogShape,
        config: SlateAttentionConfig = SlateAttentionConfig(),
        item_vectors: Tensor | None = None,
    ) -> None:
        size = config.embedding_size
        super().__init__(shape, config, item_vectors, memory_size=size)
        self.attention = SlateAttention(shape.n_positions, size, config)
        self.users = ClickedItems(shape.n_user_features, size)
        self.lift = nn.Linear(2 * size, config.hidden_size)

    def _score(self, users: Tensor, rows: Tensor) -> Tensor:
        """Return unfinished log-odds [B, S] of users [B, d] for items in `rows` [B, S]."""
        item, position = self.items.vector(rows), positions_of(rows)
        user = users.unsqueeze(1).expand(item.shape)
        x = self.lift(torch.cat([item + self.attention.position(position), user], -1))
        hidden = self.attention(x, rows != self.items.empty)
        return self.readout(hidden, item, self.items.bias(rows), position)

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        score = self._score(self.memory(state), self.items.index(slate))
        return self.finish(score, state, slate)

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions in parallel."""
        b, r, s = batch.slate.shape
        rows = self.items.index(batch.slate)
        users = self.users(batch.user, self.items.vector(rows), batch.click)
        logits = self._score(users.reshape(b * r, -1), rows.view(b * r, s))
        return Evaluation(self.finish_batch(logits, batch), users)


class TransformerGRU(NeuralResponder):
    """Two stages: attention inside each slate, then a GRU from slate to slate.

    Of each slate the GRU reads the mean of the attended items and the mean of the clicked ones. Its
    state starts from the user's features, from zeros where the log has none.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = SlateAttentionConfig
    learning_rate: ClassVar[float] = 1e-3

    def __init__(
        self,
        shape: LogShape,
        config: SlateAttentionConfig = SlateAttentionConfig(),
        item_vectors: Tensor | None = None,
    ) -> None:
        size = config.hidden_size
        super().__init__(shape, config, item_vectors, memory_size=size)
        self.attention = SlateAttention(shape.n_positions, config.embedding_size, config)
        self.lift = nn.Linear(config.embedding_size, size)
        self.gru = nn.GRU(2 * size, size, batch_first=True)
        self.initial = UserProjection(shape.n_user_features, size)
        self.mix = nn.Linear(2 * size, size)

    def start(self, user: Tensor) -> State:
        return {"hidden": self.initial(user).tanh(), "session": self.session.start(user)}

    def memory(self, state: State) -> Tensor:
        """Return the hidden state [B, H]."""
        return state["hidden"]

    hidden = memory

    def with_hidden(self, state: State, hidden: Tensor) -> State:
        return state | {"hidden": hidden}

    def _attend(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return item vectors [B, S, d] and attended items [B, S, H] of slates [B, S]."""
        item = self.items.vector(rows)
        x = self.lift(item + self.attention.position(positions_of(rows)))
        return item, self.attention(x, rows != self.items.empty)

    def _summary(self, attended: Tensor, filled: Tensor, click: Tensor) -> Tensor:
        """Return what the GRU reads, [..., 2H], of attended items [..., S, H]."""
        shown, click = filled.to(attended.dtype), click.to(attended.dtype)
        seen = torch.einsum("...sh,...s->...h", attended, shown)
        clicked = torch.einsum("...sh,...s->...h", attended, click * shown)
        return torch.cat([seen, clicked], -1) / shown.sum(-1, keepdim=True).clamp(min=1)

    def _score(self, hidden: Tensor, rows: Tensor, item: Tensor, attended: Tensor) -> Tensor:
        """Return log-odds [B, S]."""
        carried = hidden.unsqueeze(1).expand(attended.shape)
        mixed = F.gelu(self.mix(torch.cat([attended, carried], -1)))
        return self.readout(mixed, item, self.items.bias(rows), positions_of(rows))

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        return self._read(state, slate)[0]

    def _read(self, state: State, slate: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-odds [B, S] and the attended items [B, S, H] of a slate."""
        rows = self.items.index(slate)
        item, attended = self._attend(rows)
        score = self._score(state["hidden"], rows, item, attended)
        return self.finish(score, state, slate), attended

    def respond(
        self, state: State, slate: Tensor, uniform: Tensor, offset: Tensor | None = None
    ) -> Response:
        log_odds, attended = self._read(state, slate)
        probability = click_probability(log_odds, slate)
        click = uniform < probability
        return Response(click, probability, self._after(state, slate, attended, click))

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        return self._after(state, slate, self._attend(self.items.index(slate))[1], click)

    def _after(self, state: State, slate: Tensor, attended: Tensor, click: Tensor) -> State:
        """Return the state after a slate [B, S] whose items are `attended` [B, S, H]."""
        filled, hidden = slate >= 0, state["hidden"]
        summary = self._summary(attended, filled, click)
        _, moved = self.gru(summary.unsqueeze(1), hidden.unsqueeze(0).contiguous())
        return {
            "hidden": torch.where(filled.any(1, keepdim=True), moved.squeeze(0), hidden),
            "session": self.observe_session(state, slate, click),
        }

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions in parallel."""
        b, r, s = batch.slate.shape
        rows = self.items.index(batch.slate).view(b * r, s)
        item, attended = self._attend(rows)
        summary = self._summary(attended.view(b, r, s, -1), batch.shown, batch.click)
        seen = batch.shown.any(2)
        first = self.initial(batch.user).tanh()
        packed = gather(summary, packed_order(seen))
        states, _ = self.gru(packed, first.unsqueeze(0).contiguous())
        memory = states_before_slates(states, first, seen.unsqueeze(2))
        logits = self._score(memory.reshape(b * r, -1), rows, item, attended)
        return Evaluation(self.finish_batch(logits, batch), memory)
