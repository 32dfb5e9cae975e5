"""Classic click models of how a user reads down a slate: cascade, DCM, UBM, DBN, CCM.

In all of them P(click) = P(the position is examined, given the clicks above) × attraction of the
item. They differ in how a click or a skip changes the examination of the next position (Chuklin,
Markov and de Rijke, "Click Models for Web Search", 2015). No history, no user.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.log.batch import SessionBatch
from responders.log.counts import count, logit
from responders.log.session_log import SessionLog
from responders.models.base import LogShape, Responder, Response, draw_uniform
from responders.models.parts.items import ItemEncoder
from responders.models.state import State

_TINY = 1e-6


class ChainModel(Responder):
    """Base of the models of reading down a slate, trained by maximum likelihood.

    Subclasses make their parameters in `_build`, and say in `_examined` how likely position s is
    examined and in `_next` what is passed down, [B, *]. That is linear in the click, so that
    feeding probabilities in place of clicks gives the exact unconditional probabilities.

    An item's numbers are drawn to those of the unknown item, which stands for the mean, as if it
    had been seen `prior` times more with that outcome (a Beta prior, as `PBM` has).

    Args:
        shape: sizes of the log.
        prior: how many impressions the mean counts for.
    """

    reads_history = False
    reads_clicks_above = True
    learning_rate: ClassVar[float] = 0.03

    def __init__(self, shape: LogShape, *, prior: float = 10.0) -> None:
        super().__init__(shape)
        self.prior = prior
        self.items = ItemEncoder(shape.n_items, 1, prior=prior)
        self.items.weight = None  # only the bias table, the log-odds of attraction, is used
        self._build()

    @property
    def _tables(self) -> list[nn.Embedding]:
        """What is learned of each item, as log-odds."""
        return [self.items.bias]

    def _build(self) -> None:
        """Make the parameters of the subclass, if it has any."""

    def _first(self, attraction: Tensor) -> Tensor:
        """Return what is passed to the first position: unless overridden, that it is examined."""
        return attraction.new_ones(len(attraction))

    def _examined(self, s: int, passed: Tensor) -> Tensor:
        """Return the chance [B] that position `s` is examined."""
        return passed

    def _next(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        """Return what position `s` passes down, for clicks [B] float."""
        raise NotImplementedError

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start the attractions from the items' click rates."""
        self.items.initialise(log, sessions)
        seen, clicked = (c.sum(1) for c in count(log, sessions))
        overall = clicked.sum() / seen.sum()
        rate = (clicked + self.prior * overall) / (seen + self.prior)
        with torch.no_grad():
            self.items.bias.weight[: len(rate) + 1, 0] = logit(np.append(rate, overall))

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the click loss and the prior's share: `prior` over all impressions of an item."""
        loss, measures = super().training_loss(batch)
        rows = self.items.lookup[batch.slate[batch.shown] + 1]
        for table in self._tables:
            mean = table.weight[self.items.unknown, 0].sigmoid().detach().expand(rows.shape)
            drawn = table(rows).squeeze(-1)
            each = F.binary_cross_entropy_with_logits(drawn, mean, reduction="none")
            loss = loss + (self.items.pull[rows] * each).sum()
        return loss, measures

    def _walk(
        self, slate: Tensor, click: Tensor | None, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Read slates [B, S]; return log-odds [B, S] and clicks [B, S] float."""
        rows = self.items.rows(slate)
        attraction = self.items.bias(rows).squeeze(-1).sigmoid()
        passed, logits, clicks = self._first(attraction), [], []
        for s in range(slate.shape[1]):
            p = (self._examined(s, passed) * attraction[:, s]).clamp(_TINY, 1 - _TINY)
            logits.append(torch.logit(p))
            if click is not None:
                clicked = click[:, s].to(p.dtype)
            elif uniform is not None:
                clicked = (uniform[:, s] < p).to(p.dtype)
            else:
                clicked = p
            filled = slate[:, s] >= 0
            clicked = clicked * filled
            after = self._next(s, passed, attraction[:, s], rows[:, s], clicked)
            passed = torch.where(filled.view(-1, *[1] * (passed.ndim - 1)), after, passed)
            clicks.append(clicked)
        return torch.stack(logits, 1), torch.stack(clicks, 1)

    def start(self, user: Tensor) -> State:
        """Return an empty state; see `Responder.start`."""
        return {}

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state unchanged."""
        return state

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`. Without clicks they are unconditional."""
        return self._walk(slate, click, None)[0]

    def respond(
        self,
        state: State,
        slate: Tensor,
        generator: torch.Generator | None = None,
        *,
        uniform: Tensor | None = None,
    ) -> Response:
        """Draw clicks position by position, each given those above; see `Responder.respond`."""
        logits, click = self._walk(slate, None, draw_uniform(slate, generator, uniform))
        return Response(click > 0, torch.where(slate >= 0, logits.sigmoid(), 0.0), state)

    def forward(self, batch: SessionBatch) -> Tensor:
        """Return log-odds [B, R, S]; see `Responder.forward`."""
        logits, _ = self._walk(batch.slate.flatten(0, 1), batch.click.flatten(0, 1), None)
        return logits.view(batch.slate.shape)


def _after_skip(examined: Tensor, attraction: Tensor) -> Tensor:
    """Return the chance that a skipped position was examined all the same (Bayes)."""
    chance = examined * attraction
    return (examined - chance) / (1 - chance).clamp(min=_TINY)


def _mixed(click: Tensor, after_click: Tensor, after_skip: Tensor) -> Tensor:
    return click * after_click + (1 - click) * after_skip


class Cascade(ChainModel):
    """The user reads down and stops at the first click (Craswell et al., WSDM 2008).

    A second click in a slate has probability 1e-6, the least that any model here states.

    Args: as `ChainModel`.
    """

    def _next(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        return (1 - click) * _after_skip(passed, attraction)


class DCM(ChainModel):
    """Dependent click model: after a click at s the user reads on with chance λ_s (Guo, WSDM 2009).

    Args: as `ChainModel`.
    """

    def _build(self) -> None:
        self.go_on = nn.Parameter(torch.zeros(self.shape.n_positions))

    def _next(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        return _mixed(click, self.go_on[s].sigmoid(), _after_skip(passed, attraction))


class DBN(ChainModel):
    """Dynamic Bayesian network: a click satisfies by the item's chance σ, else the user reads on
    with chance γ (Chapelle and Zhang, WWW 2009).

    Args: as `ChainModel`.
    """

    def _build(self) -> None:
        self.go_on = nn.Parameter(torch.tensor(2.0))
        self.satisfied = nn.Embedding(self.items.bias.num_embeddings, 1)
        nn.init.zeros_(self.satisfied.weight)

    @property
    def _tables(self) -> list[nn.Embedding]:
        return [self.items.bias, self.satisfied]

    def _next(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        unsatisfied = 1 - self.satisfied(rows).squeeze(-1).sigmoid()
        return self.go_on.sigmoid() * _mixed(click, unsatisfied, _after_skip(passed, attraction))


class CCM(ChainModel):
    """Click chain model: the user reads on with chance τ1 after a skip, after a click with
    τ2 (1 − α) + τ3 α, α the item's attraction (Guo et al., WWW 2009).

    Args: as `ChainModel`.
    """

    def _build(self) -> None:
        self.go_on = nn.Parameter(torch.tensor([2.0, 0.0, 0.0]))

    def _next(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        skip, dull, good = self.go_on.sigmoid()
        after_click = dull * (1 - attraction) + good * attraction
        return _mixed(click, after_click, skip * _after_skip(passed, attraction))


class UBM(ChainModel):
    """User browsing model: examination depends on the position and on the last click above
    (Dupret and Piwowarski, SIGIR 2008).

    Args: as `ChainModel`.
    """

    def _build(self) -> None:
        n = self.shape.n_positions
        self.examination = nn.Parameter(torch.full((n, n + 1), 1.0))  # [s, last click; n = none]

    def _first(self, attraction: Tensor) -> Tensor:
        """Return the distribution [B, S + 1] of the last click's position: none yet."""
        n = self.shape.n_positions
        none = F.one_hot(torch.tensor(n, device=attraction.device), n + 1)
        return none.to(attraction.dtype).expand(len(attraction), -1)

    def _examined(self, s: int, passed: Tensor) -> Tensor:
        return passed @ self.examination[s].sigmoid()

    def _next(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        here = F.one_hot(torch.tensor(s, device=click.device), passed.shape[1]).to(passed.dtype)
        return _mixed(click.unsqueeze(1), here, passed)
