"""Causal attention over the whole session: SessionTransformer (arXiv 2409.20055)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.log.batch import SessionBatch
from responders.models.base import LogShape, Response, draw_uniform
from responders.models.neural import Evaluation, NeuralResponder
from responders.models.parts.attention import Block
from responders.models.parts.packing import (
    before,
    compact,
    gather,
    last_click,
    last_clicked,
    slate_numbers,
)
from responders.models.parts.users import UserFeatures
from responders.models.state import State


class _Tokens(NamedTuple):
    """Positions that have been read: what later ones may look at."""

    cache: dict[str, Tensor]  # key0, value0, key1, … [B, L, H]
    held: Tensor  # [B, L] bool, whether there is something
    last: Tensor  # [B, H] the state after the last filled position
    above: Tensor  # [B] table row of the last item if it was clicked, else the empty row


class SessionAttention(NeuralResponder):
    """Base of the responders that attend over the session.

    Args:
        shape: sizes of the log.
        item_features: as `NeuralResponder`.
        heads: of attention.
        window: how far back attention reaches: slates of a SessionTransformer, clicks of a SCOT.
        options: as `NeuralResponder`.
    """

    def __init__(
        self,
        shape: LogShape,
        item_features: Tensor | None = None,
        *,
        heads: int = 4,
        window: int = 100,
        **options: Any,
    ) -> None:
        self.heads, self.window = heads, window
        super().__init__(shape, item_features, **options)

    def _build_position(self) -> None:
        self.position = nn.Embedding(self.shape.n_positions, self.items.size)
        nn.init.normal_(self.position.weight, std=0.1)
        features = self.shape.n_user_features
        self.users = UserFeatures(features, self.hidden_size) if features else None

    def _base(self, user: Tensor) -> Tensor:
        """Return what the features [B, F] say of the users, [B, H]."""
        if self.users is None:
            return user.new_zeros(len(user), self.hidden_size)
        return self.users(user)

    def _place(self, slate: Tensor) -> Tensor:
        return torch.arange(slate.shape[-1], device=slate.device).expand(slate.shape)


class SessionTransformer(SessionAttention):
    """Causal self-attention over all items of all slates, `window` slates back.

    A position reads its item and, as the recurrent responders do, the product of the vector and
    the click of the item above; so later positions see every click. Time enters as the number of
    slates between two positions (rotary).

    Args:
        shape: sizes of the log.
        item_features: as `NeuralResponder`.
        layers: transformer blocks.
        heads: of attention.
        window: how many slates back attention reaches.
        options: as `NeuralResponder`.
    """

    reads_clicks_above = True
    learning_rate: ClassVar[float] = 1e-3

    def __init__(
        self,
        shape: LogShape,
        item_features: Tensor | None = None,
        *,
        layers: int = 2,
        **options: Any,
    ) -> None:
        self.layers = layers
        super().__init__(shape, item_features, **options)

    def _build(self) -> int:
        self._build_position()
        blocks = nn.ModuleList(Block(self.hidden_size, self.heads) for _ in range(self.layers))
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]
        self.norm = nn.LayerNorm(self.hidden_size)
        self.lift = nn.Linear(2 * self.items.size, self.hidden_size)
        return self.hidden_size + self.items.size

    def _start(self, user: Tensor) -> State:
        b, base = len(user), self._base(user)
        names = [f"{kind}{i}" for i in range(self.layers) for kind in ("key", "value")]
        return {
            "base": base,
            "last": torch.zeros_like(base),
            "above": torch.full((b,), self.items.empty, device=user.device),
            "number": torch.zeros(b, dtype=torch.int64, device=user.device),
            "held": torch.zeros(b, 0, dtype=torch.bool, device=user.device),
            **{name: base.new_zeros(b, 0, self.hidden_size) for name in names},
        }

    def memory(self, state: State) -> Tensor:
        """Return the state after the last position and the vector of its item if clicked."""
        return torch.cat([state["last"], self.items(state["above"])], -1)

    def _enter(self, base: Tensor, item: Tensor, place: Tensor, above: Tensor) -> Tensor:
        x = self.lift(torch.cat([item + self.position(place), above], -1))
        return x + base.unsqueeze(1)

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions at once."""
        b, r, s = batch.slate.shape
        flat = batch.slate.view(b, r * s)
        order = compact(flat >= 0)
        rows, click = gather(self.items.rows(flat), order), gather(batch.click.view(b, -1), order)
        number = slate_numbers(batch.shown).repeat_interleave(s, 1).gather(1, order)
        place = order % s
        item, base = self.items(rows), self._base(batch.user)
        above = F.pad(item * click.unsqueeze(-1), (0, 0, 1, 0))[:, :-1]
        x, mask = self._enter(base, item, place, above), None
        if r > self.window + 1:
            gap = number.unsqueeze(2) - number.unsqueeze(1)
            own = torch.ones_like(gap[0], dtype=torch.bool).tril()
            mask = (own & (gap <= self.window)).unsqueeze(1)
        for block in self.blocks:
            x = block(x, number, mask, causal=mask is None)
        x = self.norm(x)
        last = last_click(batch.click, self.shape.n_positions).view(b, r * s).gather(1, order)
        logits = self.readout(x, item, self.items.bias(rows), place, last)
        logits = logits.new_zeros(b, r * s).scatter(1, order, logits).view(b, r, s)
        logits = logits + self.session.parallel(batch)
        if self.pick is None:
            return Evaluation(logits, None)
        ends = before(x, torch.zeros_like(base), batch.shown)
        whole = self.items(self.items.rows(flat))
        clicked = last_clicked(whole, batch.click.view(b, -1), batch.shown)
        return Evaluation(logits, torch.cat([ends, clicked], -1))

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`."""
        if click is not None:
            return self._read(state, slate, click)[0]
        return self._read_on(state, slate, None)[0]

    def _observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        return self._remember(state, self._read(state, slate, click)[1])

    def respond(
        self,
        state: State,
        slate: Tensor,
        generator: torch.Generator | None = None,
        *,
        uniform: Tensor | None = None,
    ) -> Response:
        """Draw clicks position by position, each given those above; see `Responder.respond`."""
        uniform = draw_uniform(slate, generator, uniform)
        logits, tokens, click = self._read_on(state, slate, uniform)
        probability = torch.where(slate >= 0, logits.sigmoid(), 0.0)
        after = self._remember(state, tokens) | self.session.observe(state, slate, click)
        return Response(click, probability, after)

    def _run(
        self,
        past: list[tuple[Tensor, Tensor]],
        state: State,
        x: Tensor,
        filled: Tensor,
        new: dict[str, Tensor],
        held: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run tokens x [B, n, H] of one slate; return their states and the slate's new cache.

        `past` is `_past(state)`; `new` and `held` are the keys, values and filled places of the
        slate's tokens before these.
        """
        n, number = x.shape[1], state["number"].unsqueeze(1).expand(x.shape[:2])
        own = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        own = (own & filled.unsqueeze(1)) | torch.eye(n, dtype=torch.bool, device=x.device)
        mask = torch.cat([held.unsqueeze(1).expand(-1, n, -1), own], 2)
        grown = {}
        for i, block in enumerate(self.blocks):
            attention, normed = block.attention, block.norm(x)
            pair = attention.keys_values(normed, number)
            for name, value in zip((f"key{i}", f"value{i}"), pair, strict=True):
                grown[name] = torch.cat([new[name], value.transpose(1, 2).flatten(2)], 1)
            here = self._heads(grown[f"key{i}"]), self._heads(grown[f"value{i}"])
            query = attention.queries(normed, number)
            x = block.finish(x, attention.continued(query, past[i], here, state["held"], mask))
        return self.norm(x), grown

    def _heads(self, x: Tensor) -> Tensor:
        """Return [B, L, H] as [B, heads, L, D]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _past(self, state: State) -> list[tuple[Tensor, Tensor]]:
        """Return each block's keys and values of earlier slates, [B, heads, M, D]."""
        return [
            (
                self._heads(state[f"key{i}"]).contiguous(),
                self._heads(state[f"value{i}"]).contiguous(),
            )
            for i in range(self.layers)
        ]

    def _nothing(self, state: State) -> dict[str, Tensor]:
        return {k: v[:, :0] for k, v in state.items() if k.startswith(("key", "value"))}

    def _read(self, state: State, slate: Tensor, click: Tensor) -> tuple[Tensor, _Tokens]:
        """Read a whole slate with its clicks given: log-odds [B, S] and what is left of it."""
        order = compact(slate >= 0)
        rows, clicked = gather(self.items.rows(slate), order), gather(click.float(), order)
        filled = rows != self.items.empty
        item = self.items(rows)
        above = self.items(state["above"]).unsqueeze(1)
        above = torch.cat([above, (item * clicked.unsqueeze(-1))[:, :-1]], 1)
        x = self._enter(state["base"], item, order, above)
        x, cache = self._run(
            self._past(state), state, x, filled, self._nothing(state), filled[:, :0]
        )
        above_here = last_click(click, self.shape.n_positions).gather(1, order)
        logits = self.readout(x, item, self.items.bias(rows), order, above_here)
        logits = logits + self.session(state)
        n = filled.sum(1)
        end = (n - 1).clamp(min=0).unsqueeze(1)
        last, row = gather(x, end).squeeze(1), rows.gather(1, end).squeeze(1)
        here = torch.where(clicked.gather(1, end).squeeze(1) > 0, row, self.items.empty)
        some = n > 0

        def back(values: Tensor) -> Tensor:
            index = order.unsqueeze(-1).expand(values.shape)
            return values.new_zeros(*slate.shape, values.shape[-1]).scatter(1, index, values)

        return logits.new_zeros(slate.shape).scatter(1, order, logits), _Tokens(
            {name: back(values) for name, values in cache.items()},
            slate >= 0,
            torch.where(some.unsqueeze(1), last, state["last"]),
            torch.where(some, here, state["above"]),
        )

    def _read_on(
        self, state: State, slate: Tensor, uniform: Tensor | None
    ) -> tuple[Tensor, _Tokens, Tensor]:
        """Read a slate position by position, drawing clicks by `uniform` or feeding probabilities.

        Returns:
            log-odds [B, S], what is left of the slate, clicks [B, S] bool.
        """
        rows, places = self.items.rows(slate), self._place(slate)
        items, bias = self.items(rows), self.items.bias(rows)
        above, row_above, last = self.items(state["above"]), state["above"], state["last"]
        cache, held, past = self._nothing(state), slate[:, :0] >= 0, self._past(state)
        logits, clicks, offset, after = [], [], self.session(state), self.readout.after
        assert after is not None
        n = after.shape[0]
        # [B, S + 1] which click was the last above; probabilities where those are fed
        latest = F.one_hot(torch.full_like(slate[:, 0], n), n + 1).to(items.dtype)
        for s in range(slate.shape[1]):
            one, filled = slice(s, s + 1), (slate[:, s] >= 0).unsqueeze(1)
            x = self._enter(state["base"], items[:, one], places[:, one], above.unsqueeze(1))
            x, cache = self._run(past, state, x, filled, cache, held)
            odds = self.readout(x, items[:, one], bias[:, one], places[:, one])
            odds = (odds + offset).squeeze(1) + latest @ after[s]
            held = torch.cat([held, filled], 1)
            here = filled.squeeze(1)
            if uniform is None:
                fed, clicked = odds.sigmoid(), torch.zeros_like(here)
            else:
                clicked = (uniform[:, s] < odds.sigmoid()) & here
                fed = clicked.to(odds.dtype)
            weight = (fed * here).unsqueeze(1)
            here_last = F.one_hot(torch.tensor(s, device=x.device), n + 1)
            latest = weight * here_last + (1 - weight) * latest
            above = torch.where(filled, items[:, s] * fed.unsqueeze(1), above)
            row_here = torch.where(clicked, rows[:, s], self.items.empty)
            row_above = torch.where(here, row_here, row_above)
            last = torch.where(filled, x.squeeze(1), last)
            logits.append(odds)
            clicks.append(clicked)
        tokens = _Tokens(cache, held, last, row_above)
        return torch.stack(logits, 1), tokens, torch.stack(clicks, 1)

    def _remember(self, state: State, tokens: _Tokens) -> State:
        """Return the state after a slate; of the cache the last `window` slates are kept."""
        some, size = tokens.held.any(1), self.window * self.shape.n_positions
        pad = self.shape.n_positions - tokens.held.shape[1]  # a slate takes S places

        def shift(old: Tensor, new: Tensor) -> Tensor:
            """Append the slate for users who saw something, nothing for the others."""
            wide = (0, 0) * (new.ndim - 2)
            new = new * tokens.held.view(*new.shape[:2], *[1] * (new.ndim - 2))
            moved = torch.cat([old, F.pad(new, (*wide, 0, pad))], 1)
            kept = F.pad(old, (*wide, new.shape[1] + pad, 0))
            seen = some.view(-1, *[1] * (old.ndim - 1))
            return torch.where(seen, moved, kept)[:, -size:]

        return {
            "base": state["base"],
            "last": tokens.last,
            "above": tokens.above,
            "number": state["number"] + some,
            "held": shift(state["held"], tokens.held),
            **{name: shift(state[name], value) for name, value in tokens.cache.items()},
        }
