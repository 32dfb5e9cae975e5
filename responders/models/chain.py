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

from responders.config import Config
from responders.log.batch import SessionBatch
from responders.log.counts import count, logit
from responders.log.session_log import SessionLog
from responders.models.base import LogShape, Responder, Response, click_probability
from responders.models.counting import PriorConfig
from responders.models.parts.items import ItemEncoder
from responders.models.state import State

_TINY = 1e-6


class ChainModel(Responder):
    """Base of the models of reading down a slate, trained by maximum likelihood.

    Subclasses say in `examined` how likely position s is examined and in `passed_on` what is passed
    down to the next position, [B, ...]. That is linear in the click, so that probabilities in place
    of clicks give the exact unconditional probabilities.

    The log-odds learned for an item are drawn to those of the unknown item, which represents the
    mean, as if the item had been seen `prior` times more with that outcome (a Beta prior).

    Args:
        shape: sizes of the log.
        config: the settings.
    """

    config_class: ClassVar[type[Config]] = PriorConfig
    reads_history = False
    reads_clicks_above = True
    learning_rate: ClassVar[float] = 0.03

    def __init__(self, shape: LogShape, config: PriorConfig = PriorConfig()) -> None:
        super().__init__(shape, config)
        self.prior = config.prior
        self.items = ItemEncoder(shape.n_items, 1, prior=config.prior)
        self.items.vector_table = None  # only the bias, the log-odds of attraction, is used

    def item_tables(self) -> list[nn.Embedding]:
        """Return what is learned of each item, as tables of log-odds [rows, 1]."""
        return [self.items.bias_table]

    def passed_first(self, attraction: Tensor) -> Tensor:
        """Return what is passed to the first position: by default, that it is examined."""
        return attraction.new_ones(len(attraction))

    def examined(self, s: int, passed: Tensor) -> Tensor:
        """Return the chance [B] that position `s` is examined, given what was passed to it."""
        return passed

    def passed_on(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        """Return what position `s` passes down.

        Args:
            s: the position.
            passed: [B, ...], what was passed to it.
            attraction: [B] of its items.
            rows: [B] table rows of its items.
            click: [B] float.
        """
        raise NotImplementedError

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Start the attractions from the items' click rates."""
        self.items.initialise(log, sessions)
        seen, clicked = (c.sum(1) for c in count(log, sessions))
        overall = clicked.sum() / seen.sum()
        rate = (clicked + self.prior * overall) / (seen + self.prior)
        with torch.no_grad():
            self.items.bias_table.weight[: len(rate) + 1, 0] = logit(np.append(rate, overall))

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the click loss and the loss of the items' prior."""
        loss, measures = super().training_loss(batch)
        item = batch.slate[batch.shown]
        rows = self.items.index(item, replace_some=False)
        for table in self.item_tables():
            mean = table.weight[self.items.unknown, 0].sigmoid().detach()
            loss = loss + self.items.prior_loss(item, table(rows).squeeze(-1), mean)
        return loss, measures

    def _read(
        self, slate: Tensor, click: Tensor | None, uniform: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read slates [B, S] from the top; return log-odds [B, S] and clicks [B, S] float.

        Clicks are given, or drawn by `uniform`, or else the probabilities stand in for them.
        """
        rows = self.items.index(slate)
        attraction = self.items.bias(rows).sigmoid()
        passed, logits, clicks = self.passed_first(attraction), [], []
        for s in range(slate.shape[1]):
            p = (self.examined(s, passed) * attraction[:, s]).clamp(_TINY, 1 - _TINY)
            logits.append(torch.logit(p))
            if click is not None:
                clicked = click[:, s].to(p.dtype)
            elif uniform is not None:
                clicked = (uniform[:, s] < p).to(p.dtype)
            else:
                clicked = p
            filled = slate[:, s] >= 0
            clicked = clicked * filled
            after = self.passed_on(s, passed, attraction[:, s], rows[:, s], clicked)
            passed = torch.where(filled.view(-1, *[1] * (passed.ndim - 1)), after, passed)
            clicks.append(clicked)
        return torch.stack(logits, 1), torch.stack(clicks, 1)

    def start(self, user: Tensor) -> State:
        """Return an empty state."""
        return {}

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state unchanged."""
        return state

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`. Without clicks they are unconditional."""
        return self._read(slate, click)[0]

    def marginal(self, state: State, slate: Tensor) -> Tensor:
        return click_probability(self.logits(state, slate), slate)  # exact

    def respond(self, state: State, slate: Tensor, uniform: Tensor) -> Response:
        logits, click = self._read(slate, None, uniform)
        return Response(click > 0, click_probability(logits, slate), state)

    def forward(self, batch: SessionBatch) -> Tensor:
        logits, _ = self._read(batch.slate.flatten(0, 1), batch.click.flatten(0, 1))
        return logits.view(batch.slate.shape)


def _after_skip(examined: Tensor, attraction: Tensor) -> Tensor:
    """Return the chance that a skipped position was nevertheless examined (Bayes' rule)."""
    chance = examined * attraction
    return (examined - chance) / (1 - chance).clamp(min=_TINY)


def _mixed(click: Tensor, after_click: Tensor, after_skip: Tensor) -> Tensor:
    return click * after_click + (1 - click) * after_skip


class Cascade(ChainModel):
    """The user reads down and stops at the first click (Craswell et al., WSDM 2008).

    A second click in a slate has probability 1e-6, the least that any model here states.

    Args:
        shape: sizes of the log.
        config: the settings.
    """

    def passed_on(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        return (1 - click) * _after_skip(passed, attraction)


class DCM(ChainModel):
    """Dependent click model: after a click at s the user reads on with chance λ_s (Guo, WSDM 2009).

    Args:
        shape: sizes of the log.
        config: the settings.
    """

    def __init__(self, shape: LogShape, config: PriorConfig = PriorConfig()) -> None:
        super().__init__(shape, config)
        self.continuation = nn.Parameter(torch.zeros(shape.n_positions))

    def passed_on(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        return _mixed(click, self.continuation[s].sigmoid(), _after_skip(passed, attraction))


class DBN(ChainModel):
    """Dynamic Bayesian network: a click satisfies by the item's chance σ, else the user reads on
    with chance γ (Chapelle and Zhang, WWW 2009).

    Args:
        shape: sizes of the log.
        config: the settings.
    """

    def __init__(self, shape: LogShape, config: PriorConfig = PriorConfig()) -> None:
        super().__init__(shape, config)
        self.continuation = nn.Parameter(torch.tensor(2.0))
        self.satisfied = nn.Embedding(self.items.n_rows, 1)
        nn.init.zeros_(self.satisfied.weight)

    def item_tables(self) -> list[nn.Embedding]:
        """Return the log-odds of attraction and of satisfaction."""
        return [self.items.bias_table, self.satisfied]

    def passed_on(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        unsatisfied = 1 - self.satisfied(rows).squeeze(-1).sigmoid()
        return self.continuation.sigmoid() * _mixed(
            click, unsatisfied, _after_skip(passed, attraction)
        )


class CCM(ChainModel):
    """Click chain model: the user reads on with chance τ1 after a skip, after a click with
    τ2 (1 − α) + τ3 α, α the item's attraction (Guo et al., WWW 2009).

    Args:
        shape: sizes of the log.
        config: the settings.
    """

    def __init__(self, shape: LogShape, config: PriorConfig = PriorConfig()) -> None:
        super().__init__(shape, config)
        self.continuation = nn.Parameter(torch.tensor([2.0, 0.0, 0.0]))

    def passed_on(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        skip, dull, good = self.continuation.sigmoid()
        after_click = dull * (1 - attraction) + good * attraction
        return _mixed(click, after_click, skip * _after_skip(passed, attraction))


class UBM(ChainModel):
    """User browsing model: examination depends on the position and on the last click above
    (Dupret and Piwowarski, SIGIR 2008).

    Args:
        shape: sizes of the log.
        config: the settings.
    """

    def __init__(self, shape: LogShape, config: PriorConfig = PriorConfig()) -> None:
        super().__init__(shape, config)
        n = shape.n_positions
        self.examination = nn.Parameter(torch.full((n, n + 1), 1.0))  # [s, last click; n = none]

    def passed_first(self, attraction: Tensor) -> Tensor:
        """Return the distribution [B, S + 1] of the last click's position: none yet."""
        n = self.shape.n_positions
        none = F.one_hot(torch.tensor(n, device=attraction.device), n + 1)
        return none.to(attraction.dtype).expand(len(attraction), -1)

    def examined(self, s: int, passed: Tensor) -> Tensor:
        return passed @ self.examination[s].sigmoid()

    def passed_on(
        self, s: int, passed: Tensor, attraction: Tensor, rows: Tensor, click: Tensor
    ) -> Tensor:
        here = F.one_hot(torch.tensor(s, device=click.device), passed.shape[1]).to(passed.dtype)
        return _mixed(click.unsqueeze(1), here, passed)
