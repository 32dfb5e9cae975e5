"""Clicked-only attention over the whole session: SCOT (arXiv 2409.20055)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from responders.log.batch import SessionBatch
from responders.models.base import LARGEST_TABLE, cached
from responders.models.neural import Evaluation
from responders.models.parts.attention import Attention, Feed
from responders.models.parts.packing import compact, slate_numbers
from responders.models.session_attention import SessionAttention
from responders.models.state import State

_SLATES = 16  # of a long session that are answered at a time


class SCOT(SessionAttention):
    """Session-wise clicked-only transformer: shown items look at the items clicked before.

    Queries are the items of the slate; keys and values the last `window` items clicked in earlier
    slates and a token of the user, so that no history works. Clicks are packed, and what is done to
    a token beyond attention (the feed-forward layers) is done to the clicks: memory and time grow
    with clicks, and per shown item there is little. The state holds the clicked items and when
    they were clicked, nothing else.

    Args:
        shape: sizes of the log.
        item_features: as `NeuralResponder`.
        heads: of attention.
        window: how many clicks back attention reaches.
        options: as `NeuralResponder`.
    """

    def _build(self) -> int:
        self._build_position()
        size = self.hidden_size
        self.attention = Attention(size, self.heads, self.items.size)
        self.lift = nn.Linear(self.items.size, size)
        self.feed = Feed(size)
        self.norm = nn.LayerNorm(size)
        self.user_token = nn.Parameter(torch.zeros(size))
        self.wish = nn.Parameter(torch.zeros(self.items.size))  # asks for the next click
        return size

    def _start(self, user: Tensor) -> State:
        b = len(user)
        return {
            "base": self._base(user),
            "row": torch.full((b, self.window), self.items.empty, device=user.device),
            "when": torch.zeros(b, self.window, dtype=torch.int64, device=user.device),
            "number": torch.zeros(b, dtype=torch.int64, device=user.device),
        }

    def _clicks(self, base: Tensor, rows: Tensor, when: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, heads, 1 + C, D] of the user's token and the clicks.

        Args:
            base: [B, H] of the users.
            rows: [B, C] table rows of the clicked items.
            when: [B, C] the slates of those clicks.
        """
        user = self._token(self.user_token + base).unsqueeze(1)
        if torch.is_grad_enabled() or self.items.bias.num_embeddings > LARGEST_TABLE:
            clicks = self._click(rows)
        else:  # a click's key and value depend on its item alone until they are rotated
            clicks = F.embedding(rows, cached(self, self._every_click))
        return self.attention.as_keys_values(torch.cat([user, clicks], 1), F.pad(when, (1, 0)))

    def _token(self, x: Tensor) -> Tensor:
        """Return keys and values, not yet split, [..., 2H] of tokens [..., H]."""
        return self.attention.key_value(self.norm(x + self.feed(x)))

    def _click(self, rows: Tensor) -> Tensor:
        return self._token(self.lift(self.items(rows)))

    def _every_click(self) -> Tensor:
        n = self.items.bias.num_embeddings
        return self._click(torch.arange(n, device=self.items.bias.weight.device))

    def _look(
        self, x: Tensor, number: Tensor, base: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> Tensor:
        """Return what queries x [B, L, d], asked in slates `number` [B, L], find: [B, L, H].

        `mask` [B, L, C] bool says which clicks each query may see; the user's token it always may.
        """
        mask = F.pad(mask, (1, 0), value=True).unsqueeze(1)
        query = self.attention.queries(x, number)
        return self.attention(query, key, value, mask) + base.unsqueeze(1)

    def _look_back(self, state: State, x: Tensor) -> Tensor:
        """Return what queries x [B, L, d] of users in `state` find."""
        n, base = x.shape[1], state["base"]
        mask = (state["row"] != self.items.empty).unsqueeze(1).expand(-1, n, -1)
        number = state["number"].unsqueeze(1).expand(-1, n)
        return self._look(x, number, base, *self._clicks(base, state["row"], state["when"]), mask)

    def memory(self, state: State) -> Tensor:
        """Return what the question for the next click finds, [B, H]."""
        return self._look_back(state, self.wish.expand(len(state["row"]), 1, -1)).squeeze(1)

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`."""
        rows, place = self.items.rows(slate), self._place(slate)
        item = self.items(rows)
        hidden = self._look_back(state, item + self.position.weight[: slate.shape[1]])
        return self.readout(hidden, item, self.items.bias(rows), place) + self.session(state)

    def _observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        clicked = (click > 0) & (slate >= 0)
        rows = torch.where(clicked, self.items.rows(slate), self.items.empty)
        rows = torch.cat([state["row"], rows], 1)
        number = state["number"].unsqueeze(1).expand(clicked.shape)
        when = torch.cat([state["when"], number], 1)
        filled = rows != self.items.empty
        order = torch.argsort(filled.to(torch.uint8), dim=1, stable=True)[:, -self.window :]
        return {
            "base": state["base"],
            "row": rows.gather(1, order),
            "when": when.gather(1, order),
            "number": state["number"] + (slate >= 0).any(1),
        }

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions at once.

        Long sessions are answered some slates at a time: each looks at the clicks up to it only,
        and its intermediate results are computed again for the gradient, not kept.
        """
        b, r, s = batch.slate.shape
        rows = self.items.rows(batch.slate)
        base, numbers = self._base(batch.user), slate_numbers(batch.shown)
        order = compact(batch.click.view(b, r * s) > 0)
        click_rows = rows.view(b, -1).gather(1, order)
        when = numbers.repeat_interleave(s, 1).gather(1, order)
        key, value = self._clicks(base, click_rows, when)
        n_clicks = batch.click.sum(2).long()
        n_before = n_clicks.cumsum(1) - n_clicks
        item = self.items(rows)
        parts = []
        for first in range(0, r, _SLATES):
            here = slice(first, min(first + _SLATES, r))
            last = 1 + int(n_before[:, here].max())
            keys = key[:, :, :last], value[:, :, :last]
            given = (rows[:, here], item[:, here], numbers[:, here], n_before[:, here], base, *keys)
            if r > _SLATES and torch.is_grad_enabled():
                parts.append(
                    checkpoint(self._answer, *given, use_reentrant=False, preserve_rng_state=False)
                )
            else:
                parts.append(self._answer(*given))
        logits = torch.cat(parts, 1) + self.session.parallel(batch)
        memory = None
        if self.pick is not None:
            mask = self._visible(n_before, key.shape[2] - 1)
            memory = self._look(self.wish.expand(b, r, -1), numbers, base, key, value, mask)
        return Evaluation(logits, memory)

    def _visible(self, n_before: Tensor, n_clicks: int) -> Tensor:
        """Return which clicks each slate sees, [B, R, C] bool: the last `window` before it."""
        past = n_before.unsqueeze(2) - torch.arange(n_clicks, device=n_before.device)
        return (past >= 1) & (past <= self.window)

    def _answer(
        self,
        rows: Tensor,
        item: Tensor,
        numbers: Tensor,
        n_before: Tensor,
        base: Tensor,
        key: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Return log-odds [B, R, S] of slates with `n_before` [B, R] clicks before each."""
        b, r, s = rows.shape
        mask, number = (
            t.repeat_interleave(s, 1) for t in (self._visible(n_before, key.shape[2] - 1), numbers)
        )
        x = (item + self.position.weight[:s]).view(b, r * s, -1)
        hidden = self._look(x, number, base, key, value, mask).view(b, r, s, -1)
        return self.readout(hidden, item, self.items.bias(rows), self._place(rows))
