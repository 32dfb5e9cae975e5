"""Click models without history, fitted by counting: by item, by position, position-based."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from responders.config import Config, setting
from responders.log.batch import SessionBatch
from responders.log.counts import count, logit, position_log_odds
from responders.log.session_log import SessionLog
from responders.models.base import LogShape, Responder, Response
from responders.models.parts.items import ItemEncoder
from responders.models.state import State

_TABLE = 1 << 22  # probabilities that are worth their memory


class CountingResponder(Responder):
    """Base of the responders without state whose log-odds depend on item and position alone."""

    reads_history = False
    trained_by_gradient = False

    def tabulate(self) -> tuple[Tensor, Tensor] | None:
        """Return the probability of each item at each position, [N + 1, S], and positions [S].

        The last row, of empty positions, is 0.
        """
        n, s = self.shape.n_items, self.shape.n_positions
        if n * s > _TABLE:
            return None
        device = next(iter(self.state_dict().values())).device
        item = torch.arange(n, device=device).unsqueeze(1).expand(n, s)
        return F.pad(self.score(item).sigmoid(), (0, 0, 0, 1)), torch.arange(s, device=device)

    def respond(self, state: State, slate: Tensor, uniform: Tensor) -> Response:
        if self.prepared is None:
            return super().respond(state, slate, uniform)
        table, position = self.prepared
        probability = table[slate, position[: slate.shape[1]]]  # -1 is the last row
        return Response(uniform < probability, probability, state)

    def start(self, user: Tensor) -> State:
        """Return an empty state."""
        return {}

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state unchanged."""
        return state

    def score(self, slate: Tensor) -> Tensor:
        """Return log-odds [..., S] of slates [..., S]."""
        raise NotImplementedError

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        return self.score(slate)

    def forward(self, batch: SessionBatch) -> Tensor:
        return self.score(batch.slate)


@dataclass(frozen=True)
class PriorConfig(Config):
    """Settings of the responders with a number for each item."""

    prior: float = setting(10.0, "Pseudo-impressions at the mean rate of all items.", ge=0)


class ItemTable(CountingResponder):
    """Base of the counting responders with a number for each item."""

    config_class: ClassVar[type[Config]] = PriorConfig

    def __init__(self, shape: LogShape, config: PriorConfig = PriorConfig()) -> None:
        super().__init__(shape, config)
        self.prior = config.prior
        self.items = ItemEncoder(shape.n_items, 1)

    def item_log_odds(self, slate: Tensor) -> Tensor:
        """Return the log-odds [..., S] of the items alone."""
        return self.items.bias(self.items.index(slate))

    def set_items(self, rate: np.ndarray, unknown: float) -> None:
        """Set the rate of each item [N] and that of the unknown item."""
        rates = logit(np.append(rate, unknown))
        with torch.no_grad():
            self.items.bias_table.weight[: len(rates), 0] = rates
        self.items.requires_grad_(False)


class ItemCTR(ItemTable):
    """Each item's click rate, shrunk to the overall rate by `prior` pseudo-impressions.

    Args:
        shape: sizes of the log.
        config: the settings.
    """

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Count impressions and clicks."""
        seen, clicked = (c.sum(1) for c in count(log, sessions))
        overall = clicked.sum() / seen.sum()
        self.set_items((clicked + self.prior * overall) / (seen + self.prior), overall)

    def score(self, slate: Tensor) -> Tensor:
        """Return the item's log-odds."""
        return self.item_log_odds(slate)


class PositionCTR(CountingResponder):
    """Each position's click rate.

    Args:
        shape: sizes of the log.
        config: it has no settings.
    """

    def __init__(self, shape: LogShape, config: Config = Config()) -> None:
        super().__init__(shape, config)
        self.position: Tensor
        self.register_buffer("position", torch.zeros(shape.n_positions))

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Count impressions and clicks."""
        self.position.copy_(position_log_odds(log, sessions))

    def score(self, slate: Tensor) -> Tensor:
        """Return the position's log-odds."""
        return self.position[: slate.shape[-1]].expand(slate.shape)


@dataclass(frozen=True)
class PBMConfig(PriorConfig):
    """Settings of `PBM`."""

    iterations: int = setting(
        2000, "At most; fitting stops when no examination moves by over 1e-6.", ge=1
    )


class PBM(ItemTable):
    """Position-based model: P(click) = examination of the position × attraction of the item.

    Fitted by expectation-maximisation on the counts (Craswell et al., WSDM 2008; Chuklin et al.,
    "Click Models for Web Search", 2015), with a Beta prior on attraction. Examination is relative:
    its largest value is 1.

    Args:
        shape: sizes of the log.
        config: the settings.
    """

    config_class: ClassVar[type[Config]] = PBMConfig

    def __init__(self, shape: LogShape, config: PBMConfig = PBMConfig()) -> None:
        super().__init__(shape, config)
        self.iterations = config.iterations
        self.examination: Tensor
        self.register_buffer("examination", torch.ones(shape.n_positions))

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Fit by expectation-maximisation."""
        seen, clicked = count(log, sessions)
        item, position = np.nonzero(seen)
        n, c = seen[item, position].astype(float), clicked[item, position].astype(float)
        examination, attraction, unknown = self._fit(item, position, n, c)
        self.examination.copy_(torch.from_numpy(examination))
        self.set_items(attraction, unknown)

    def _fit(
        self, item: np.ndarray, position: np.ndarray, n: np.ndarray, c: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        n_items, n_positions = self.shape.n_items, self.shape.n_positions
        seen = np.maximum(np.bincount(position, n, n_positions), 1e-9)
        shown = np.bincount(item, n, n_items)
        examination = np.bincount(position, c, n_positions) / seen
        examination = np.clip(examination / examination.max(), 1e-6, 1)
        attraction = np.full(n_items, np.clip(c.sum() / n.sum() * 2, 1e-6, 0.5))
        for _ in range(self.iterations):
            e, a = examination[position], attraction[item]
            skipped = (n - c) / np.maximum(1 - e * a, 1e-12)
            examined = np.bincount(position, c + skipped * e * (1 - a), n_positions) / seen
            attracted = np.bincount(item, c + skipped * a * (1 - e), n_items)
            mean = attracted.sum() / shown.sum()
            attraction = (attracted + self.prior * mean) / (shown + self.prior)
            # The likelihood sees only the product; fixing the largest examination at 1 after each
            # step keeps the scale from drifting.
            scale = examined.max()
            examined, attraction = examined / scale, np.minimum(attraction * scale, 1 - 1e-6)
            moved = np.abs(examined - examination).max()
            examination = np.clip(examined, 1e-6, 1)
            if moved < 1e-6:
                break
        return examination, attraction, float((attraction * shown).sum() / shown.sum())

    def score(self, slate: Tensor) -> Tensor:
        """Return the log-odds of examination × attraction."""
        examined = self.examination[: slate.shape[-1]].clamp(max=1 - 1e-6)
        return log_odds(examined.log() + F.logsigmoid(self.item_log_odds(slate)))


def log_odds(log_p: Tensor) -> Tensor:
    """Return log p − log(1 − p) for log-probabilities below 0, stable near both ends."""
    return log_p - torch.log(-torch.expm1(log_p.clamp(max=-1e-7)))
