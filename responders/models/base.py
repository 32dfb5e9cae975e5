"""Responder: the contract of every simulated user.

`start` makes the state of B users, `logits` gives the log-odds of a click on each item of a slate,
`respond` draws the clicks, `observe` updates the state. `forward` evaluates whole sessions at once
and equals stepping through them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from responders.config import Config
from responders.errors import InputError
from responders.log.batch import SessionBatch
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.models.state import State

MARGINAL_DRAWS = 64
"""Draws of a slate's clicks over which `Responder.marginal` averages where it is not exact."""

LARGEST_TABLE = 1 << 16
"""`Responder.prepare` tabulates per-item products for catalogues of at most this many items."""

_version = attrgetter("_version")  # how often a tensor was written to


@dataclass(frozen=True)
class LogShape:
    """The sizes that a responder is built for.

    Args:
        n_items: N, items in the catalogue.
        n_positions: S, the widest slate.
        n_user_features: F, columns of the user features; may be 0.
    """

    n_items: int
    n_positions: int
    n_user_features: int = 0

    @staticmethod
    def of(log: SessionLog) -> LogShape:
        """Return the shape of `log`."""
        return LogShape(len(log.catalogue), log.n_positions, log.users.features.shape[1])


@dataclass(frozen=True)
class Response:
    """How B users answered a slate.

    Args:
        click: [B, S] bool; False at empty positions.
        probability: [B, S] float32, the probability from which each click was drawn (given the
            clicks above where the responder reads them); 0 at empty positions.
        state: the state after the slate, as `observe` gives it.
        disagreement: [B, S] float32, standard deviation of the members' probabilities of an
            ensemble; None for other responders.
    """

    click: Tensor
    probability: Tensor
    state: State
    disagreement: Tensor | None = None


class Responder(nn.Module):
    """Base of all responders: B simulated users answer slates of S positions.

    Slates are [B, S] int64 catalogue indices with -1 at empty positions, clicks are [B, S], user
    features [B, F] float32. Subclasses implement `start`, `logits` and `observe`. They override
    `respond` where a click depends on the clicks above it, and `forward` where whole sessions can
    be evaluated in parallel. Empty positions change nothing.

    Args:
        shape: sizes of the log.
        config: an instance of `config_class`.
    """

    config_class: ClassVar[type[Config]] = Config
    """The frozen dataclass of its settings."""
    reads_history: bool = True
    """Whether earlier slates of the session change the answer."""
    reads_clicks_above: bool = False
    """Whether clicks at earlier positions of the same slate change the answer."""
    trained_by_gradient: bool = True
    """False where `initialise` fits everything in closed form."""
    learning_rate: ClassVar[float] = 3e-3
    """Default initial learning rate of Adam."""

    def __init__(self, shape: LogShape, config: Config) -> None:
        super().__init__()
        self.shape, self.config = shape, config
        self._prepared: tuple[Any, list[Tensor], int] | None = None

    def start(self, user: Tensor) -> State:
        """Return the state of new users with features `user` [B, F]."""
        raise NotImplementedError

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return the log-odds [B, S] of a click on each position of `slate`.

        Args:
            state: of B users, before the slate.
            slate: [B, S].
            click: [B, S], known clicks of this slate: position s sees those above it. When None, a
                responder that reads clicks above uses its own probabilities in their place.
        """
        raise NotImplementedError

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after users saw `slate` [B, S] and answered `click` [B, S]."""
        raise NotImplementedError

    def leave_log_odds(self, state: State) -> Tensor | None:
        """Return what users in `state` add to the log-odds of leaving after a slate, [B].

        None, the default, adds nothing: only the hazard decides.
        """
        return None

    def hidden(self, state: State) -> Tensor | None:
        """Return the vectors [B, D] that a network keeps of users, from which slates are scored.

        None, the default, says that it keeps none.
        """
        return None

    def with_hidden(self, state: State, hidden: Tensor) -> State:
        """Return `state` with other vectors [B, D] in the place of `hidden(state)`."""
        raise NotImplementedError

    def respond(self, state: State, slate: Tensor, uniform: Tensor) -> Response:
        """Draw the clicks of B users on `slate`.

        Args:
            state: of B users, before the slate.
            slate: [B, S].
            uniform: [B, S] float32 in [0, 1): position s is clicked where it is below the
                probability.
        """
        probability = click_probability(self.logits(state, slate), slate)
        click = uniform < probability
        return Response(click, probability, self.observe(state, slate, click))

    def marginal(self, state: State, slate: Tensor) -> Tensor:
        """Return the click probabilities [B, S] given the history but not the clicks above.

        Exact for responders that do not read clicks above. Otherwise the mean of the conditional
        probabilities over `MARGINAL_DRAWS` draws of the slate's clicks, from the same quasi-random
        numbers for every user, so that equal states and slates have equal probabilities.

        Args:
            state: of B users, before the slate.
            slate: [B, S].
        """
        if not self.reads_clicks_above:
            return click_probability(self.logits(state, slate), slate)
        return average_over_draws(self.respond, state, slate)

    def forward(self, batch: SessionBatch) -> Tensor:
        """Return the log-odds [B, R, S] of every position of `batch`, given all that came before.

        Values at padding are finite and meaningless.
        """
        return unroll(self, batch)

    @torch.no_grad()
    def prepare(self) -> None:
        """Precompute what stepping needs of weights that no longer change (`tabulate`).

        It saves time and changes no answer. What was prepared is used only where no gradient is
        recorded, and only while the weights are those that it was made of.
        """
        if self.prepared is not None:
            return
        # Inference tensors, which cannot be trained, have no version.
        weights = [w for w in (*self.parameters(), *self.buffers()) if not w.is_inference()]
        self._prepared = self.tabulate(), weights, sum(map(_version, weights))

    def tabulate(self) -> Any:
        """Return products of the weights that stepping can look up; None = there are none."""
        return None

    @property
    def prepared(self) -> Any:
        """What `tabulate` returned, None unless it can be used."""
        if self._prepared is None or torch.is_grad_enabled():
            return None
        tables, weights, version = self._prepared
        return tables if sum(map(_version, weights)) == version else None  # versions only grow

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._prepared = None  # weights move to another device or dtype
        return super()._apply(*args, **kwargs)

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss to minimise, summed over shown positions, and measures to log.

        The loss is the binary cross-entropy in nats unless a subclass adds to it; the measures are
        means over the batch.
        """
        return click_loss(self(batch), batch), {}

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Set what the training `sessions` of `log` give in closed form, before any gradient."""

    def extend(self, catalogue: Catalogue) -> None:
        """Make room for the items that `catalogue` has beyond `shape.n_items` (cold items)."""
        self._prepared = None
        for module in list(self.modules()):
            add_items = getattr(module, "add_items", None)
            if callable(add_items):
                add_items(catalogue)
        self.shape = replace(self.shape, n_items=len(catalogue))

    def check_slate(self, slate: Tensor) -> None:
        """Raise `InputError` for a slate that this responder cannot answer."""
        if slate.ndim != 2 or slate.shape[1] > self.shape.n_positions:
            raise InputError(
                f"slate has shape {tuple(slate.shape)}; this responder answers [users, positions] "
                f"with at most {self.shape.n_positions} positions"
            )
        if slate.numel() and not (int(slate.min()) >= -1 and int(slate.max()) < self.shape.n_items):
            raise InputError(
                f"slate has item {int(slate.min())} to {int(slate.max())}; the catalogue has items "
                f"0 to {self.shape.n_items - 1} (-1 = empty position)"
            )


def click_probability(log_odds: Tensor, slate: Tensor) -> Tensor:
    """Return the probabilities [B, S] of log-odds of a click; 0 at empty positions."""
    return torch.where(slate >= 0, log_odds.sigmoid(), 0.0)


def click_loss(logits: Tensor, batch: SessionBatch) -> Tensor:
    """Return the binary cross-entropy (nats) of log-odds [B, R, S], summed over shown positions.

    Each counts with its `batch.weight`, where there are weights.
    """
    shown = batch.shown
    weight = None if batch.weight is None else batch.weight[shown]
    return F.binary_cross_entropy_with_logits(
        logits[shown].float(), batch.click[shown], weight, reduction="sum"
    )


def average_over_draws(
    respond: Callable[..., Response], state: State, slate: Tensor, *others: Tensor
) -> Tensor:
    """Return the probabilities [B, S] of `respond`, averaged over draws of the clicks above.

    Args:
        respond: takes a state, slates, uniform numbers and `others`.
        state: of B users.
        slate: [B, S].
        others: tensors with B first.
    """
    draws = _draws(slate.shape[1], slate.device)
    state, slate, *others = tree_map(
        lambda value: value.repeat_interleave(len(draws), 0), (state, slate, *others)
    )
    uniform = draws.repeat(len(slate) // len(draws), 1)
    probability = respond(state, slate, uniform, *others).probability
    return probability.view(-1, len(draws), slate.shape[1]).mean(1)


@cache
def _draws(n_positions: int, device: torch.device) -> Tensor:
    """Return the uniform numbers [MARGINAL_DRAWS, S] of all marginals."""
    sobol = torch.quasirandom.SobolEngine(n_positions, scramble=True, seed=0)
    return sobol.draw(MARGINAL_DRAWS, dtype=torch.float32).to(device)


def unroll(responder: Responder, batch: SessionBatch) -> Tensor:
    """Return the log-odds [B, R, S] of `batch` by stepping through its slates one by one."""
    state, logits = responder.start(batch.user), []
    for r in range(batch.slate.shape[1]):
        slate, click = batch.slate[:, r], batch.click[:, r]
        logits.append(responder.logits(state, slate, click))
        state = responder.observe(state, slate, click)
    return torch.stack(logits, 1)
