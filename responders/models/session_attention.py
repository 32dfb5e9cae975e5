"""Causal attention over the whole session: SessionTransformer (arXiv 2409.20055)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.config import Config, setting
from responders.log.batch import SessionBatch
from responders.models.base import LogShape, Response, click_probability
from responders.models.neural import Evaluation, NeuralConfig, NeuralResponder
from responders.models.parts.attention import Block
from responders.models.parts.click_gru import last_row_if_clicked
from responders.models.parts.packing import (
    gather,
    last_click_above,
    last_item_if_clicked,
    packed_order,
    positions_of,
    slates_before,
    states_before_slates,
    unpack,
)
from responders.models.parts.users import UserProjection
from responders.models.state import State

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of each block, [B, L, H]."""


class _Tokens(NamedTuple):
    """The positions of a slate that was read, to which later ones may attend."""

    cache: Cache
    filled: Tensor  # [B, S] bool
    last: Tensor  # [B, H] the state after the last filled position
    above: Tensor  # [B] table row of the last item if it was clicked, else the empty row


@dataclass(frozen=True)
class SessionTransformerConfig(NeuralConfig):
    """Settings of `SessionTransformer`."""

    heads: int = setting(4, "Attention heads.", ge=1, le=64)
    window: int = setting(100, "Slates back that attention reaches.", ge=1)
    layers: int = setting(2, "Transformer blocks.", ge=1, le=64)


class SessionTransformer(NeuralResponder):
    """Causal self-attention over all items of all slates, `window` slates back.

    A position reads its item and, as in the recurrent responders, the product of the vector and
    the click of the item above; so later positions see every click. Time enters as the number of
    slates between two positions (rotary).

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = SessionTransformerConfig
    reads_clicks_above = True
    learning_rate: ClassVar[float] = 1e-3

    def __init__(
        self,
        shape: LogShape,
        config: SessionTransformerConfig = SessionTransformerConfig(),
        item_vectors: Tensor | None = None,
    ) -> None:
        size, hidden = config.embedding_size, config.hidden_size
        super().__init__(shape, config, item_vectors, memory_size=hidden + size)
        self.window = config.window
        self.position = nn.Embedding(shape.n_positions, size)
        nn.init.normal_(self.position.weight, std=0.1)
        self.user_features = UserProjection(shape.n_user_features, hidden)
        blocks = nn.ModuleList(Block(hidden, config.heads) for _ in range(config.layers))
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]
        self.norm = nn.LayerNorm(hidden)
        self.lift = nn.Linear(2 * size, hidden)

    def start(self, user: Tensor) -> State:
        b, base = len(user), self.user_features(user)
        nothing = base.new_zeros(b, 0, self.hidden_size)
        return {
            "user": base,
            "last": torch.zeros_like(base),
            "above": torch.full((b,), self.items.empty, device=user.device),
            "slates": torch.zeros(b, dtype=torch.int64, device=user.device),
            "filled": torch.zeros(b, 0, dtype=torch.bool, device=user.device),
            "cache": [(nothing, nothing) for _ in self.blocks],
            "session": self.session.start(user),
        }

    def memory(self, state: State) -> Tensor:
        """Return the state after the last position and the vector of its item if clicked."""
        return torch.cat([state["last"], self.items.vector(state["above"])], -1)

    def _tokens(self, user: Tensor, item: Tensor, position: Tensor, above: Tensor) -> Tensor:
        """Return the inputs [B, L, H] of the blocks; `above` [B, L, d] is the clicked item."""
        x = self.lift(torch.cat([item + self.position(position), above], -1))
        return x + user.unsqueeze(1)

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions in parallel."""
        b, r, s = batch.slate.shape
        flat, clicks = batch.slate.view(b, r * s), batch.click.view(b, r * s)
        order = packed_order(flat >= 0)
        rows, click = gather(self.items.index(flat), order), gather(clicks, order)
        number = gather(slates_before(batch.shown).repeat_interleave(s, 1), order)
        position, item, user = order % s, self.items.vector(rows), self.user_features(batch.user)
        above = F.pad(item * click.unsqueeze(-1), (0, 0, 1, 0))[:, :-1]
        x, mask = self._tokens(user, item, position, above), None
        if r > self.window + 1:
            distance = number.unsqueeze(2) - number.unsqueeze(1)
            causal = torch.ones_like(distance[0], dtype=torch.bool).tril()
            mask = (causal & (distance <= self.window)).unsqueeze(1)
        for block in self.blocks:
            x = block(x, number, mask, causal=mask is None)
        x = self.norm(x)
        last = last_click_above(batch.click, self.shape.n_positions).view(b, r * s)
        packed = self.readout(x, item, self.items.bias(rows), position, gather(last, order))
        logits = self.finish_batch(unpack(packed, order, r * s), batch)
        if self.next_click_head is None:
            return Evaluation(logits, None)
        ends = states_before_slates(x, torch.zeros_like(user), batch.shown)
        all_items = self.items.vector(self.items.index(flat))
        last_item = last_item_if_clicked(all_items, clicks, batch.shown)
        return Evaluation(logits, torch.cat([ends, last_item], -1))

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        if click is not None:
            return self._read(state, slate, click)[0]
        return self._read_by_position(state, slate, None)[0]

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        return self._remember(state, slate, click, self._read(state, slate, click)[1])

    def respond(
        self, state: State, slate: Tensor, uniform: Tensor, offset: Tensor | None = None
    ) -> Response:
        logits, tokens, click = self._read_by_position(state, slate, uniform, offset)
        probability = click_probability(logits, slate)
        return Response(click, probability, self._remember(state, slate, click, tokens))

    def _run_blocks(
        self,
        past: Cache,
        state: State,
        x: Tensor,
        filled: Tensor,
        cache: Cache,
        filled_above: Tensor,
    ) -> tuple[Tensor, Cache]:
        """Run tokens of one slate; return their states [B, n, H] and the slate's longer cache.

        Args:
            past: keys and values of earlier slates, `_split_past(state)`.
            state: before the slate.
            x: [B, n, H], the tokens.
            filled: [B, n] bool, tokens that are no empty position.
            cache: keys and values of the slate's tokens before these.
            filled_above: [B, m] bool, which of those are no empty position.
        """
        n, number = x.shape[1], state["slates"].unsqueeze(1).expand(x.shape[:2])
        causal = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        itself = torch.eye(n, dtype=torch.bool, device=x.device)
        own = (causal & filled.unsqueeze(1)) | itself  # softmax needs at least one entry
        mask = torch.cat([filled_above.unsqueeze(1).expand(-1, n, -1), own], 2)
        longer = []
        for block, earlier, (keys, values) in zip(self.blocks, past, cache, strict=True):
            attention, normed = block.attention, block.norm(x)
            key, value = (
                t.transpose(1, 2).flatten(2) for t in attention.keys_values(normed, number)
            )
            pair = torch.cat([keys, key], 1), torch.cat([values, value], 1)
            longer.append(pair)
            new = attention.split_heads(pair[0]), attention.split_heads(pair[1])
            query = attention.queries(normed, number)
            attended = attention.attend_to_past_and_new(query, earlier, new, state["filled"], mask)
            x = block.finish(x, attended)
        return self.norm(x), longer

    def _split_past(self, state: State) -> Cache:
        """Return each block's keys and values of earlier slates, [B, heads, M, D]."""
        return [
            (
                block.attention.split_heads(key).contiguous(),
                block.attention.split_heads(value).contiguous(),
            )
            for block, (key, value) in zip(self.blocks, state["cache"], strict=True)
        ]

    def _read(self, state: State, slate: Tensor, click: Tensor) -> tuple[Tensor, _Tokens]:
        """Read a whole slate, its clicks given: return log-odds [B, S] and the slate's tokens."""
        order = packed_order(slate >= 0)
        all_rows = self.items.index(slate)
        rows, clicked = gather(all_rows, order), gather(click.float(), order)
        filled, item = rows != self.items.empty, self.items.vector(rows)
        above = self.items.vector(state["above"]).unsqueeze(1)
        above = torch.cat([above, (item * clicked.unsqueeze(-1))[:, :-1]], 1)
        x = self._tokens(state["user"], item, order, above)
        no_cache = [(key[:, :0], value[:, :0]) for key, value in state["cache"]]
        past = self._split_past(state)
        x, cache = self._run_blocks(past, state, x, filled, no_cache, filled[:, :0])
        last_click = gather(last_click_above(click, self.shape.n_positions), order)
        logits = self.readout(x, item, self.items.bias(rows), order, last_click)
        logits = self.finish(unpack(logits, order, slate.shape[1]), state, slate, click)
        n = filled.sum(1, keepdim=True)
        last = gather(x, (n - 1).clamp(min=0)).squeeze(1)
        s = slate.shape[1]
        return logits, _Tokens(
            [(unpack(key, order, s), unpack(value, order, s)) for key, value in cache],
            slate >= 0,
            torch.where(n > 0, last, state["last"]),
            last_row_if_clicked(all_rows, click, self.items.empty, state["above"]),
        )

    def _read_by_position(
        self, state: State, slate: Tensor, uniform: Tensor | None, offset: Tensor | None = None
    ) -> tuple[Tensor, _Tokens, Tensor]:
        """Read a slate position by position, with drawn clicks or probabilities in their place.

        Args:
            state: before the slate.
            slate: [B, S].
            uniform: [B, S] in [0, 1) to draw clicks by; None = probabilities stand in for clicks.
            offset: [B, S] `session_log_odds`; None = computed here.

        Returns:
            log-odds [B, S], the slate's tokens, and clicks [B, S] bool.
        """
        rows, position = self.items.index(slate), positions_of(slate)
        item, bias = self.items.vector(rows), self.items.bias(rows)
        above, last = self.items.vector(state["above"]), state["last"]
        offset = self.session_log_odds(state, slate) if offset is None else offset
        past = self._split_past(state)
        cache = [(key[:, :0], value[:, :0]) for key, value in state["cache"]]
        filled, by_last_click = slate >= 0, self.readout.last_click_bias
        assert by_last_click is not None
        n = by_last_click.shape[1]
        # [B, S + 1] which position the last click above has; the last entry stands for none. With
        # probabilities in place of clicks it holds weights.
        last_click = F.one_hot(torch.full_like(slate[:, 0], n - 1), n).to(item.dtype)
        n_clicks, finishing = torch.zeros_like(offset[:, 0]), self.readout.finishing()
        logits, clicks = [], []
        for s in range(slate.shape[1]):
            one, here = slice(s, s + 1), filled[:, s]
            x = self._tokens(state["user"], item[:, one], position[:, one], above.unsqueeze(1))
            x, cache = self._run_blocks(past, state, x, filled[:, one], cache, filled[:, :s])
            odds = self.readout(x, item[:, one], bias[:, one], position[:, one]).squeeze(1)
            odds = odds + offset[:, s] + last_click @ by_last_click[s]
            odds = finishing.position(s, odds, n_clicks)
            if uniform is None:
                weight, clicked = odds.sigmoid(), torch.zeros_like(here)
            else:
                clicked = (uniform[:, s] < odds.sigmoid()) & here
                weight = clicked.to(odds.dtype)
            shown_weight = (weight * here).unsqueeze(1)
            n_clicks = n_clicks + shown_weight.squeeze(1)
            this = F.one_hot(torch.tensor(s, device=x.device), n)
            last_click = shown_weight * this + (1 - shown_weight) * last_click
            above = torch.where(here.unsqueeze(1), item[:, s] * weight.unsqueeze(1), above)
            last = torch.where(here.unsqueeze(1), x.squeeze(1), last)
            logits.append(odds)
            clicks.append(clicked)
        click = torch.stack(clicks, 1)
        row = last_row_if_clicked(rows, click, self.items.empty, state["above"])
        return torch.stack(logits, 1), _Tokens(cache, filled, last, row), click

    def _remember(self, state: State, slate: Tensor, click: Tensor, tokens: _Tokens) -> State:
        """Return the state after a slate; the cache keeps the last `window` slates."""
        seen, length = tokens.filled.any(1), self.window * self.shape.n_positions
        padding = self.shape.n_positions - tokens.filled.shape[1]  # a slate takes S entries

        def append(old: Tensor, new: Tensor) -> Tensor:
            """Append the slate for users who saw one, nothing for the others."""
            rest = (0, 0) * (new.ndim - 2)
            new = new * tokens.filled.view(*new.shape[:2], *[1] * (new.ndim - 2))
            longer = torch.cat([old, F.pad(new, (*rest, 0, padding))], 1)
            unchanged = F.pad(old, (*rest, new.shape[1] + padding, 0))
            return torch.where(seen.view(-1, *[1] * (old.ndim - 1)), longer, unchanged)[:, -length:]

        pairs = zip(state["cache"], tokens.cache, strict=True)
        return {
            "user": state["user"],
            "last": tokens.last,
            "above": tokens.above,
            "slates": state["slates"] + seen,
            "filled": append(state["filled"], tokens.filled),
            "cache": [
                (append(key, new_key), append(value, new_value))
                for (key, value), (new_key, new_value) in pairs
            ],
            "session": self.observe_session(state, slate, click),
        }
