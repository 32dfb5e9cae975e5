"""Efficient trunks for long sessions, which read a token a slate.

MinGRU (arXiv 2410.01201) keeps a state of constant size and trains by a parallel scan. HSTU
(arXiv 2402.17152) attends to earlier slates pointwise, without a softmax. Linear attention (arXiv
2006.16236) sums what it attends to in matrices of constant size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.compiling import are_few
from responders.config import Config, setting
from responders.log.batch import SessionBatch
from responders.models.base import LogShape, Response, average_over_draws
from responders.models.neural import Evaluation, NeuralConfig, NeuralResponder, Prepared
from responders.models.parts.attention import FeedForward
from responders.models.parts.feedback import Feedback
from responders.models.parts.linear_attention import LinearAttentionBlock
from responders.models.parts.packing import (
    gather,
    packed_order,
    positions_of,
    states_before_slates,
)
from responders.models.parts.pointwise import PointwiseBlock
from responders.models.parts.scan import MinGRUCell
from responders.models.parts.users import UserProjection
from responders.models.state import State, put_rows

if TYPE_CHECKING:
    from responders.models.compiled.trunk import CompiledMinGRU


@dataclass(frozen=True)
class SlateTrunkConfig(NeuralConfig):
    """Settings of the trunks that read a token a slate."""

    feedback: bool = setting(
        True, "Let clicks change the log-odds of positions below in the slate."
    )


class SlateTrunk(NeuralResponder):
    """Base of the responders whose network reads one token a slate.

    The token is a linear map of the mean vector of the items clicked, that of the items shown, and
    whether there was a click. All positions of a slate are scored from the state before it, so
    the cost of a step does not depend on what the trunk remembers of single clicks.

    Subclasses implement `read`, `start_trunk` and `advance`. Their state holds `hidden` [B, H],
    from which the next slate is scored.
    """

    def __init__(
        self, shape: LogShape, config: SlateTrunkConfig, item_vectors: Tensor | None
    ) -> None:
        super().__init__(shape, config, item_vectors, memory_size=config.hidden_size)
        self.reads_clicks_above = config.feedback
        self.feedback = None
        if config.feedback:
            self.feedback = Feedback(shape.n_positions, config.embedding_size, config.hidden_size)
        self.lift = nn.Linear(2 * config.embedding_size + 1, config.hidden_size)

    def read(self, token: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """Read the slates of whole sessions.

        Args:
            token: [B, R, H] of slates with items, in order; what follows them is ignored.
            user: [B, F] features.

        Returns:
            The hidden states [B, H] before the first slate and [B, R, H] after each.
        """
        raise NotImplementedError

    def start_trunk(self, user: Tensor) -> State:
        """Return the trunk's state of new users with features [B, F]."""
        raise NotImplementedError

    def advance(self, state: State, token: Tensor) -> State:
        """Return the trunk's state after a slate with token [B, H], for all users."""
        raise NotImplementedError

    def _token(self, item: Tensor, shown: Tensor, click: Tensor) -> Tensor:
        """Return tokens [..., H] of slates of items [..., S, d], shown and clicked [..., S]."""
        shown = shown.to(item.dtype)
        click = click.to(item.dtype) * shown
        n_clicks = click.sum(-1, keepdim=True)
        mean_shown = (item * shown.unsqueeze(-1)).sum(-2) / shown.sum(-1, True).clamp(min=1)
        mean_clicked = (item * click.unsqueeze(-1)).sum(-2) / n_clicks.clamp(min=1)
        return self.lift(torch.cat([mean_clicked, mean_shown, (n_clicks > 0).to(item.dtype)], -1))

    def _attraction(self, hidden: Tensor, rows: Tensor, item: Tensor, offset: Tensor) -> Tensor:
        """Return the log-odds [..., S] without feedback and bounds, for states [..., H].

        `offset` is what the session context adds to slates of `item` [..., S, d] in table `rows`.
        """
        score = self.readout(hidden.unsqueeze(-2), item, self.items.bias(rows), positions_of(rows))
        return self.readout.count(score + offset, rows != self.items.empty)

    def _vector(self, rows: Tensor) -> Tensor:
        tables = self.looked_up[0]
        return self.items.vector(rows) if tables is None else F.embedding(rows, tables.vector)

    def start(self, user: Tensor) -> State:
        return {"trunk": self.start_trunk(user), "session": self.session.start(user)}

    def memory(self, state: State) -> Tensor:
        """Return the hidden state [B, H]."""
        return state["trunk"]["hidden"]

    hidden = memory

    def with_hidden(self, state: State, hidden: Tensor) -> State:
        return state | {"trunk": state["trunk"] | {"hidden": hidden}}

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        rows = self.items.index(slate)
        hidden, item = self.memory(state), self._vector(rows)
        attraction = self._attraction(hidden, rows, item, self.session_log_odds(state, slate))
        return self._log_odds(attraction, hidden, rows, item, click)

    def marginal(self, state: State, slate: Tensor) -> Tensor:
        if self.feedback is None:
            return super().marginal(state, slate)
        return average_over_draws(self._draw, self._scores(state, slate), slate)

    def respond(
        self, state: State, slate: Tensor, uniform: Tensor, offset: Tensor | None = None
    ) -> Response:
        if self.feedback is None:
            return super().respond(state, slate, uniform)
        response = self._draw(self._scores(state, slate, offset), slate, uniform)
        return replace(response, state=self.observe(state, slate, response.click))

    def _scores(self, state: State, slate: Tensor, offset: Tensor | None = None) -> State:
        """Return log-odds [B, S] without feedback, and the effects [B, S, S] of the feedback."""
        assert self.feedback is not None
        rows = self.items.index(slate)
        hidden, item = self.memory(state), self._vector(rows)
        offset = self.session_log_odds(state, slate) if offset is None else offset
        return {
            "attraction": self._attraction(hidden, rows, item, offset),
            "effects": self.feedback.effects(hidden, item, positions_of(rows)),
        }

    def _draw(self, scores: State, slate: Tensor, uniform: Tensor) -> Response:
        """Draw the clicks on a slate; the state of the response is `scores`."""
        bounds = self.readout.finishing().bounds
        click, probability = Feedback.draw(
            scores["effects"], scores["attraction"], bounds, slate >= 0, uniform
        )
        return Response(click, probability, scores)

    def _log_odds(
        self, attraction: Tensor, hidden: Tensor, rows: Tensor, item: Tensor, click: Tensor | None
    ) -> Tensor:
        """Return the log-odds [..., S] of clicks, given those above where they are read."""
        log_odds = self.readout.bound(attraction)
        if self.feedback is None or click is None:
            return log_odds
        # The rates without feedback are learned as such, not from what they do to it.
        difference = (click - log_odds.detach().sigmoid()) * (rows != self.items.empty)
        effects = self.feedback.effects(hidden, item, positions_of(rows))
        return self.readout.bound(attraction + Feedback.changes(effects, difference))

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        shown = slate >= 0
        token = self._token(self._vector(self.items.index(slate)), shown, click)
        trunk = put_rows(state["trunk"], shown.any(1), self.advance(state["trunk"], token))
        return {"trunk": trunk, "session": self.observe_session(state, slate, click)}

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions in parallel."""
        rows = self.items.index(batch.slate)
        item, seen = self.items.vector(rows), batch.shown.any(2)
        token, order = self._token(item, batch.shown, batch.click), packed_order(seen)
        first, states = self.read(gather(token, order), batch.user)
        hidden = states_before_slates(states, first, seen.unsqueeze(2))
        offset = self.session.parallel(self.items, batch)
        attraction = self._attraction(hidden, rows, item, offset)
        return Evaluation(self._log_odds(attraction, hidden, rows, item, batch.click), hidden)


@dataclass(frozen=True)
class MinGRUConfig(SlateTrunkConfig):
    """Settings of `MinGRU`."""

    layers: int = setting(1, "Layers of the trunk.", ge=1, le=64)


class MinGRU(SlateTrunk):
    """A minimal GRU over the slates of the session (Feng et al., arXiv 2410.01201).

    Its gate and candidate read the slate's token but not the state, so that a whole session is a
    parallel scan and a step costs two matrix products. The states start from the user's features.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = MinGRUConfig

    def __init__(
        self,
        shape: LogShape,
        config: MinGRUConfig = MinGRUConfig(),
        item_vectors: Tensor | None = None,
    ) -> None:
        super().__init__(shape, config, item_vectors)
        layers, hidden = config.layers, config.hidden_size
        self.initial = UserProjection(shape.n_user_features, layers * hidden)
        cells, forwards = (
            nn.ModuleList(kind(hidden) for _ in range(layers)) for kind in (MinGRUCell, FeedForward)
        )
        self.cells: Sequence[MinGRUCell] = cells  # type: ignore[assignment]
        self.feed_forwards: Sequence[FeedForward] = forwards  # type: ignore[assignment]
        self._compiled: tuple[Prepared, CompiledMinGRU] | None = None

    def respond(
        self, state: State, slate: Tensor, uniform: Tensor, offset: Tensor | None = None
    ) -> Response:
        prepared = self.prepared
        # The compiled form is faster for few users. It lacks the base-level activation.
        if prepared is None or self.session.activation is not None or not are_few(slate):
            return super().respond(state, slate, uniform, offset)
        if self._compiled is None or self._compiled[0] is not prepared:
            from responders.models.compiled.trunk import CompiledMinGRU  # imports numba

            step = CompiledMinGRU(
                self.items, self.readout, self.feedback, self.session, prepared.session,
                self.lift, self.cells, self.feed_forwards,
            )  # fmt: skip
            self._compiled = prepared, step
        return self._compiled[1](state, slate, uniform)

    def _first(self, user: Tensor) -> Tensor:
        return self.initial(user).unflatten(-1, (len(self.cells), -1))

    def start_trunk(self, user: Tensor) -> State:
        layers = self._first(user)
        return {"layers": layers, "hidden": self._out(-1, layers[:, -1])}

    def _out(self, layer: int, state: Tensor) -> Tensor:
        return state + self.feed_forwards[layer](state)

    def advance(self, state: State, token: Tensor) -> State:
        layers = []
        for i, cell in enumerate(self.cells):
            layers.append(cell(token, state["layers"][:, i]))
            token = self._out(i, layers[-1])
        return {"layers": torch.stack(layers, 1), "hidden": token}

    def read(self, token: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        first = self._first(user)
        for i, cell in enumerate(self.cells):
            token = self._out(i, cell.parallel(token, first[:, i]))
        return self._out(-1, first[:, -1]), token


class BlockTrunk(SlateTrunk):
    """Base of the trunks of residual blocks, each from [B, R, H] to [B, R, H]."""

    learning_rate: ClassVar[float] = 1e-3

    def __init__(
        self,
        shape: LogShape,
        config: SlateTrunkConfig,
        item_vectors: Tensor | None,
        blocks: Iterable[nn.Module],
    ) -> None:
        super().__init__(shape, config, item_vectors)
        self.user_features = UserProjection(shape.n_user_features, config.hidden_size)
        self.blocks: Any = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.hidden_size)

    def read(self, token: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        features = self.user_features(user)
        x = token + features.unsqueeze(1)
        for block in self.blocks:
            x = block(x)
        return features, self.norm(x) + features.unsqueeze(1)


@dataclass(frozen=True)
class HSTUConfig(SlateTrunkConfig):
    """Settings of `HSTU`."""

    heads: int = setting(4, "Attention heads.", ge=1, le=64)
    window: int = setting(100, "Slates back that attention reaches.", ge=1)
    layers: int = setting(2, "Blocks of the trunk.", ge=1, le=64)


class HSTU(BlockTrunk):
    """Pointwise attention over the slates of the session, without a softmax (arXiv 2402.17152).

    The state holds the keys and values of the last `window` slates for each block.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = HSTUConfig

    def __init__(
        self, shape: LogShape, config: HSTUConfig = HSTUConfig(), item_vectors: Tensor | None = None
    ) -> None:
        sizes = config.hidden_size, config.heads, config.window
        blocks = (PointwiseBlock(*sizes) for _ in range(config.layers))
        super().__init__(shape, config, item_vectors, blocks)
        self.window = config.window

    def start_trunk(self, user: Tensor) -> State:
        features = self.user_features(user)
        return {
            "user": features,
            "hidden": features,
            "slates": torch.zeros(len(user), 1, dtype=torch.int64, device=user.device),
            # Keys and values of earlier slates, the latest last: [B, L, blocks, 2H], L <= window.
            "past": features.new_zeros(len(user), 0, len(self.blocks), 2 * self.hidden_size),
        }

    def advance(self, state: State, token: Tensor) -> State:
        x, past, latest = token + state["user"], state["past"], []
        age = torch.arange(past.shape[1], 0, -1, device=token.device)
        exists = age <= state["slates"]
        for i, block in enumerate(self.blocks):
            x, new = block.step(x, past[:, :, i], exists)
            latest.append(new)
        past = torch.cat([past, torch.stack(latest, 1).unsqueeze(1)], 1)
        return {
            "user": state["user"],
            "hidden": self.norm(x) + state["user"],
            "slates": state["slates"] + 1,
            "past": past[:, -self.window :],
        }


@dataclass(frozen=True)
class LinearAttentionConfig(SlateTrunkConfig):
    """Settings of `LinearAttention`."""

    heads: int = setting(4, "Attention heads; each has a memory of (H / heads)² numbers.", ge=1)
    layers: int = setting(2, "Blocks of the trunk.", ge=1, le=64)


class LinearAttention(BlockTrunk):
    """Gated linear attention over the slates of the session (arXiv 2006.16236, 2405.21060).

    The state holds a matrix for each head and block, whatever the length of the session.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = LinearAttentionConfig

    def __init__(
        self,
        shape: LogShape,
        config: LinearAttentionConfig = LinearAttentionConfig(),
        item_vectors: Tensor | None = None,
    ) -> None:
        sizes = config.hidden_size, config.heads
        blocks = (LinearAttentionBlock(*sizes) for _ in range(config.layers))
        super().__init__(shape, config, item_vectors, blocks)

    def start_trunk(self, user: Tensor) -> State:
        features = self.user_features(user)
        memory = torch.stack([block.start(len(user)) for block in self.blocks], 1)
        return {"user": features, "hidden": features, "memory": memory}

    def advance(self, state: State, token: Tensor) -> State:
        x, memories = token + state["user"], []
        for i, block in enumerate(self.blocks):
            x, memory = block.step(x, state["memory"][:, i])
            memories.append(memory)
        hidden = self.norm(x) + state["user"]
        return {"user": state["user"], "hidden": hidden, "memory": torch.stack(memories, 1)}
