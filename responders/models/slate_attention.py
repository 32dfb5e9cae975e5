"""Attention among the items of a slate: SlateTransformer and TransformerGRU (arXiv 2409.20055).

Both see the whole slate at once and none of its clicks: given what came before, the clicks of a
slate are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from responders.log.batch import SessionBatch
from responders.models.base import LogShape
from responders.models.neural import Evaluation, NeuralResponder
from responders.models.parts.attention import Block
from responders.models.parts.packing import before, compact, gather
from responders.models.parts.users import UserEncoder, UserFeatures
from responders.models.state import State


class _SlateAttention(NeuralResponder):
    """Self-attention among the items of each slate.

    Args:
        shape: sizes of the log.
        item_features: as `NeuralResponder`.
        layers: transformer blocks.
        heads: of attention.
        options: as `NeuralResponder`.
    """

    learning_rate: ClassVar[float] = 1e-3

    def __init__(
        self,
        shape: LogShape,
        item_features: Tensor | None = None,
        *,
        layers: int = 1,
        heads: int = 4,
        **options: Any,
    ) -> None:
        self.layers, self.heads = layers, heads
        super().__init__(shape, item_features, **options)

    def _build_attention(self) -> None:
        self.position = nn.Embedding(self.shape.n_positions, self.items.size)
        nn.init.normal_(self.position.weight, std=0.1)
        blocks = nn.ModuleList(Block(self.hidden_size, self.heads) for _ in range(self.layers))
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]
        self.norm = nn.LayerNorm(self.hidden_size)

    def _attend(self, x: Tensor, filled: Tensor) -> Tensor:
        """Return [B, S, H] of x [B, S, H], the filled positions [B, S] attending to each other."""
        own = torch.eye(filled.shape[1], dtype=torch.bool, device=x.device)
        mask = (filled.unsqueeze(1) | own).unsqueeze(1)
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.norm(x)

    def _place(self, slate: Tensor) -> Tensor:
        return torch.arange(slate.shape[-1], device=slate.device).expand(slate.shape)


class SlateTransformer(_SlateAttention):
    """Self-attention among the items of one slate, each with the vector of its user.

    Args: as `_SlateAttention`.
    """

    def _build(self) -> int:
        self._build_attention()
        self.users = UserEncoder(self.shape.n_user_features, self.items.size)
        self.enter = nn.Linear(2 * self.items.size, self.hidden_size)
        return self.items.size

    def _start(self, user: Tensor) -> State:
        return self.users.start(user)

    def memory(self, state: State) -> Tensor:
        """Return the users' vectors [B, d]."""
        return self.users.vector(state)

    def _observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        return self.users.observe(state, self.items(self.items.rows(slate)), click)

    def _answer(self, users: Tensor, rows: Tensor) -> Tensor:
        """Return log-odds [B, S] of users with vectors [B, d] for items in `rows` [B, S]."""
        item, place = self.items(rows), self._place(rows)
        user = users.unsqueeze(1).expand(item.shape)
        x = self.enter(torch.cat([item + self.position(place), user], -1))
        hidden = self._attend(x, rows != self.items.empty)
        return self.readout(hidden, item, self.items.bias(rows), place)

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`."""
        return self._answer(self.memory(state), self.items.rows(slate)) + self.session(state)

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions at once."""
        b, r, s = batch.slate.shape
        rows = self.items.rows(batch.slate)
        users = self.users(batch.user, self.items(rows), batch.click)
        logits = self._answer(users.reshape(b * r, -1), rows.view(b * r, s))
        return Evaluation(logits.view(b, r, s) + self.session.parallel(batch), users)


class TransformerGRU(_SlateAttention):
    """Two stages: attention inside each slate, then a GRU that carries on from slate to slate.

    The GRU reads of each slate the mean of its attended items and the mean of the clicked ones. Its
    state starts from the user's features, from zeros where the log has none.

    Args: as `_SlateAttention`.
    """

    def _build(self) -> int:
        self._build_attention()
        size, features = self.hidden_size, self.shape.n_user_features
        self.lift = nn.Linear(self.items.size, size)
        self.gru = nn.GRU(2 * size, size, batch_first=True)
        self.enter = UserFeatures(features, size) if features else None
        self.mix = nn.Linear(2 * size, size)
        return size

    def _start(self, user: Tensor) -> State:
        size = self.hidden_size
        hidden = user.new_zeros(len(user), size) if self.enter is None else self.enter(user).tanh()
        return {"hidden": hidden}

    def memory(self, state: State) -> Tensor:
        """Return the hidden state [B, H]."""
        return state["hidden"]

    def _slates(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return item vectors [B, S, d] and attended items [B, S, H] of slates [B, S]."""
        item = self.items(rows)
        x = self.lift(item + self.position(self._place(rows)))
        return item, self._attend(x, rows != self.items.empty)

    def _digest(self, attended: Tensor, filled: Tensor, click: Tensor) -> Tensor:
        """Return what the GRU reads, [..., 2H] of attended items [..., S, H]."""
        shown, click = filled.to(attended.dtype), click.to(attended.dtype)
        seen = torch.einsum("...sh,...s->...h", attended, shown)
        clicked = torch.einsum("...sh,...s->...h", attended, click * shown)
        return torch.cat([seen, clicked], -1) / shown.sum(-1, keepdim=True).clamp(min=1)

    def _read(self, hidden: Tensor, rows: Tensor, item: Tensor, attended: Tensor) -> Tensor:
        """Return log-odds [B, S]."""
        carried = hidden.unsqueeze(1).expand(attended.shape)
        mixed = torch.nn.functional.gelu(self.mix(torch.cat([attended, carried], -1)))
        return self.readout(mixed, item, self.items.bias(rows), self._place(rows))

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`."""
        rows = self.items.rows(slate)
        return self._read(state["hidden"], rows, *self._slates(rows)) + self.session(state)

    def _observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        rows = self.items.rows(slate)
        filled = rows != self.items.empty
        digest = self._digest(self._slates(rows)[1], filled, click)
        hidden = state["hidden"]
        _, moved = self.gru(digest.unsqueeze(1), hidden.unsqueeze(0).contiguous())
        return {"hidden": torch.where(filled.any(1, keepdim=True), moved.squeeze(0), hidden)}

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions at once."""
        b, r, s = batch.slate.shape
        rows = self.items.rows(batch.slate).view(b * r, s)
        item, attended = self._slates(rows)
        digest = self._digest(attended.view(b, r, s, -1), batch.shown, batch.click)
        seen = batch.shown.any(2)
        first = self.start(batch.user)["hidden"]
        states, _ = self.gru(gather(digest, compact(seen)), first.unsqueeze(0).contiguous())
        memory = before(states, first, seen.unsqueeze(2))
        logits = self._read(memory.reshape(b * r, -1), rows, item, attended)
        return Evaluation(logits.view(b, r, s) + self.session.parallel(batch), memory)
