"""Attention from shown items to the items clicked before: SCOT (arXiv 2409.20055)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from responders.config import Config, setting
from responders.log.batch import SessionBatch
from responders.models.base import LogShape
from responders.models.neural import Evaluation, NeuralConfig, NeuralResponder
from responders.models.parts.attention import Attention, FeedForward
from responders.models.parts.packing import packed_order, positions_of, slates_before
from responders.models.parts.users import UserProjection
from responders.models.state import State

_SLATES = 16  # slates of a long session that are scored at a time


@dataclass(frozen=True)
class SCOTConfig(NeuralConfig):
    """Settings of `SCOT`."""

    heads: int = setting(4, "Attention heads.", ge=1, le=64)
    window: int = setting(100, "Clicks back that attention reaches.", ge=1)


class SCOT(NeuralResponder):
    """Session-wise clicked-only transformer: shown items attend to the items clicked before.

    Queries are the items of the slate; keys and values are the last `window` items clicked in
    earlier slates, and a token of the user, so that a user without clicks works too. Clicks are
    packed, and the feed-forward layers run over the clicks only: memory and time grow with the
    number of clicks. The state holds the clicked items and the slates of their clicks.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = SCOTConfig

    def __init__(
        self, shape: LogShape, config: SCOTConfig = SCOTConfig(), item_vectors: Tensor | None = None
    ) -> None:
        size, hidden = config.embedding_size, config.hidden_size
        super().__init__(shape, config, item_vectors, memory_size=hidden)
        self.window = config.window
        self.position = nn.Embedding(shape.n_positions, size)
        nn.init.normal_(self.position.weight, std=0.1)
        self.user_features = UserProjection(shape.n_user_features, hidden)
        self.attention = Attention(hidden, config.heads, size)
        self.lift = nn.Linear(size, hidden)
        self.feed_forward = FeedForward(hidden)
        self.norm = nn.LayerNorm(hidden)
        self.user_token = nn.Parameter(torch.zeros(hidden))
        self.next_click_query = nn.Parameter(torch.zeros(size))

    def tabulate_network(self) -> Tensor:
        """Return keys and values of every item, before rotation."""
        return self._click_tokens(self.items.every_row())

    def start(self, user: Tensor) -> State:
        b = len(user)
        return {
            "user": self.user_features(user),
            "clicked_row": torch.full((b, self.window), self.items.empty, device=user.device),
            "clicked_slate": torch.zeros(b, self.window, dtype=torch.int64, device=user.device),
            "slates": torch.zeros(b, dtype=torch.int64, device=user.device),
            "session": self.session.start(user),
        }

    def _key_value(self, x: Tensor) -> Tensor:
        """Return keys and values, not yet split, [..., 2H] of tokens [..., H]."""
        return self.attention.key_value(self.norm(x + self.feed_forward(x)))

    def _click_tokens(self, rows: Tensor) -> Tensor:
        return self._key_value(self.lift(self.items.vector(rows)))

    def _keys_values(self, user: Tensor, rows: Tensor, slate: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, heads, 1 + C, D] of the user's token and the clicks.

        Args:
            user: [B, H] of the features.
            rows: [B, C] table rows of the clicked items.
            slate: [B, C] the numbers of the slates of those clicks.
        """
        first = self._key_value(self.user_token + user).unsqueeze(1)
        table = self.looked_up[1]
        clicks = self._click_tokens(rows) if table is None else F.embedding(rows, table)
        tokens = torch.cat([first, clicks], 1)
        return self.attention.split_keys_values(tokens, F.pad(slate, (1, 0)))

    def _attend(
        self, x: Tensor, number: Tensor, user: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the attention [B, L, H] of queries x [B, L, d] of slates `number` [B, L].

        `mask` [B, L, C] bool says which clicks each query sees; it always sees the user's token.
        """
        mask = F.pad(mask, (1, 0), value=True).unsqueeze(1)
        query = self.attention.queries(x, number)
        return self.attention(query, key, value, mask) + user.unsqueeze(1)

    def _attend_to_history(self, state: State, x: Tensor) -> Tensor:
        """Return the attention [B, L, H] of queries x [B, L, d] to the clicks in `state`."""
        n, user, rows = x.shape[1], state["user"], state["clicked_row"]
        mask = (rows != self.items.empty).unsqueeze(1).expand(-1, n, -1)
        number = state["slates"].unsqueeze(1).expand(-1, n)
        key, value = self._keys_values(user, rows, state["clicked_slate"])
        attention = self._attend(x, number, user, key, value, mask)
        added = state.get("added")  # only by `with_hidden`
        return attention if added is None else attention + added.unsqueeze(1)

    def memory(self, state: State) -> Tensor:
        """Return the attention of the query for the next click, [B, H]."""
        query = self.next_click_query.expand(len(state["slates"]), 1, -1)
        return self._attend_to_history(state, query).squeeze(1)

    hidden = memory

    def with_hidden(self, state: State, hidden: Tensor) -> State:
        """Return the state with what is added to the attention of every item."""
        added = hidden - self.hidden(state)
        return state | {"added": state["added"] + added if "added" in state else added}

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        rows = self.items.index(slate)
        item = self.items.vector(rows)
        hidden = self._attend_to_history(state, item + self.position.weight[: slate.shape[1]])
        score = self.readout(hidden, item, self.items.bias(rows), positions_of(slate))
        return self.finish(score, state, slate)

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        clicked = (click > 0) & (slate >= 0)
        new = torch.where(clicked, self.items.index(slate), self.items.empty)
        rows = torch.cat([state["clicked_row"], new], 1)
        number = state["slates"].unsqueeze(1).expand(clicked.shape)
        slates = torch.cat([state["clicked_slate"], number], 1)
        filled = rows != self.items.empty
        order = torch.argsort(filled.to(torch.uint8), dim=1, stable=True)[:, -self.window :]
        return {
            "user": state["user"],
            "clicked_row": rows.gather(1, order),
            "clicked_slate": slates.gather(1, order),
            "slates": state["slates"] + (slate >= 0).any(1),
            "session": self.observe_session(state, slate, click),
        }

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions in parallel.

        Long sessions are scored some slates at a time: a slate sees only the clicks before it, and
        its intermediate results are recomputed for the gradient rather than kept.
        """
        b, r, s = batch.slate.shape
        rows, user = self.items.index(batch.slate), self.user_features(batch.user)
        numbers = slates_before(batch.shown)
        order = packed_order(batch.click.view(b, r * s) > 0)
        clicked_rows = rows.view(b, -1).gather(1, order)
        clicked_slates = numbers.repeat_interleave(s, 1).gather(1, order)
        key, value = self._keys_values(user, clicked_rows, clicked_slates)
        n_clicks = batch.click.sum(2).long()
        n_before = n_clicks.cumsum(1) - n_clicks
        item, parts = self.items.vector(rows), []
        for first in range(0, r, _SLATES):
            part = slice(first, min(first + _SLATES, r))
            last = 1 + int(n_before[:, part].max())
            given = (
                rows[:, part], item[:, part], numbers[:, part], n_before[:, part], user,
                key[:, :, :last], value[:, :, :last],
            )  # fmt: skip
            if r > _SLATES and torch.is_grad_enabled():
                # The dropout of the readout must be the same when the scores are recomputed.
                parts.append(checkpoint(self._score, *given, use_reentrant=False))
            else:
                parts.append(self._score(*given))
        logits = self.finish_batch(torch.cat(parts, 1), batch)
        memory = None
        if self.next_click_head is not None:
            mask = self._visible(n_before, key.shape[2] - 1)
            query = self.next_click_query.expand(b, r, -1)
            memory = self._attend(query, numbers, user, key, value, mask)
        return Evaluation(logits, memory)

    def _visible(self, n_before: Tensor, n_clicks: int) -> Tensor:
        """Return which clicks each slate sees, [B, R, C] bool: the last `window` before it."""
        age = n_before.unsqueeze(2) - torch.arange(n_clicks, device=n_before.device)
        return (age >= 1) & (age <= self.window)

    def _score(
        self,
        rows: Tensor,
        item: Tensor,
        numbers: Tensor,
        n_before: Tensor,
        user: Tensor,
        key: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Return log-odds [B, R, S] of slates with `n_before` [B, R] clicks before each."""
        b, r, s = rows.shape
        mask = self._visible(n_before, key.shape[2] - 1).repeat_interleave(s, 1)
        x = (item + self.position.weight[:s]).view(b, r * s, -1)
        number = numbers.repeat_interleave(s, 1)
        hidden = self._attend(x, number, user, key, value, mask).view(b, r, s, -1)
        return self.readout(hidden, item, self.items.bias(rows), positions_of(rows))
