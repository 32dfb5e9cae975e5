"""Random-access neural click model: the user clicks items in any order, then stops (RANCM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.config import Config, setting
from responders.errors import InputError
from responders.log.batch import SessionBatch
from responders.models.base import LogShape, Response, click_probability
from responders.models.neural import ClickMemory, Evaluation, NeuralConfig, NeuralResponder
from responders.models.parts.users import ClickedItems
from responders.models.state import State

_TINY = 1e-6


@dataclass(frozen=True)
class RANCMConfig(NeuralConfig):
    """Settings of `RANCM`."""

    orders: int = setting(4, "Click orders per slate in training.", ge=1)
    walks: int = setting(16, "Walks per slate in answers.", ge=1)


class _Slates(NamedTuple):
    """What walks through B slates of S positions need."""

    hidden: Tensor  # [B, H] before the first glance
    item: Tensor  # [B, S, d]
    bias: Tensor  # [B, S] item and position bias; minus infinity at empty positions

    def repeat(self, n: int) -> _Slates:
        """Return n copies of the batch, one after the other."""
        return _Slates(*(t.repeat(n, *[1] * (t.ndim - 1)) for t in self))

    def repeat_each(self, n: int) -> _Slates:
        """Return n copies of each slate."""
        return _Slates(*(t.repeat_interleave(n, 0) for t in self))


class RANCM(ClickMemory, NeuralResponder):
    """At each glance a GRU scores the items not yet clicked, and a Halt.

    The user clicks the item drawn from the softmax over these scores, the item enters the GRU, and
    so on until Halt is drawn (arXiv 2409.20055, after recurrent visual attention). The order of
    clicks need not be that of the positions, and a log does not record it.

    *Training.* The likelihood of the clicked set is the sum over its orders of the product of the
    choices. It is estimated from `orders` orders drawn uniformly: k! times the mean of their
    probabilities, which is unbiased, and exact for slates with at most one click. Its log is a
    lower bound that tightens with `orders` (importance-weighted, Burda et al., 2016). Since k is
    small, few orders cover the sum; since the orders do not depend on the weights, the gradient of
    the bound has no extra term. REINFORCE on drawn clicks would be far noisier.

    *Answers.* A click's probability given the clicks above is a sum over all ways to continue, so
    it is approximated by a mixture: `walks` walks with fixed quasi-random numbers each give every
    item the probability of being clicked somewhere along the walk (the sum over glances of its
    softmax weight, at most 1; the mean over walks is an unbiased estimate of the model's own
    probability where nothing is clipped, as with click rates below one half). The clicks above
    weight the walks, and `respond` draws from exactly what `logits` states. Within a walk clicks
    are independent.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = RANCMConfig
    reads_clicks_above = True

    def __init__(
        self,
        shape: LogShape,
        config: RANCMConfig = RANCMConfig(),
        item_vectors: Tensor | None = None,
    ) -> None:
        size, hidden = config.embedding_size, config.hidden_size
        super().__init__(shape, config, item_vectors, memory_size=size)
        # The walks read the clicks, not the readout; its biases are all that they use.
        self.readout.last_click_bias = self.readout.looked_at = None
        del self.readout.click_bias
        self.orders = config.orders
        self.users = ClickedItems(shape.n_user_features, size)
        self.initial = nn.Linear(size, hidden)
        self.cell = nn.GRUCell(size, hidden)
        self.position = nn.Embedding(shape.n_positions, size)
        nn.init.normal_(self.position.weight, std=0.1)
        self.halt = nn.Linear(hidden, 1)
        nn.init.zeros_(self.halt.bias)  # odds against Halt start as the odds of a click
        self.uniform: Tensor
        engine = torch.quasirandom.SobolEngine(shape.n_positions, scramble=True, seed=0)
        self.register_buffer("uniform", engine.draw(config.walks).clamp(_TINY, 1 - _TINY))

    def _slates(self, users: Tensor, rows: Tensor, offset: Tensor) -> _Slates:
        position = torch.arange(rows.shape[1], device=rows.device)
        position_bias = self.readout.position_bias(position).squeeze(-1)
        bias = self.items.bias(rows) + position_bias + offset
        bias = bias.masked_fill(rows == self.items.empty, -torch.inf)
        item = self.items.vector(rows) + self.position(position)
        return _Slates(self.initial(users).tanh(), item, bias)

    def _scores(self, slates: _Slates, hidden: Tensor, left: Tensor) -> Tensor:
        """Return log-probabilities [B, S + 1] of the items `left` [B, S] and, last, of Halt."""
        match = torch.einsum("bd,bsd->bs", self.readout.match(hidden), slates.item)
        scores = (match + slates.bias + self.readout.out(hidden)).masked_fill(~left, -torch.inf)
        return torch.cat([scores, self.halt(hidden)], 1).log_softmax(1)

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return minus the bound on the log-likelihood of the clicked sets, summed over slates.

        Raises:
            InputError: the batch has weights of positions.
        """
        if batch.weight is not None:
            raise InputError("rancm learns sets of clicks, not positions: leave out ips_clip")
        rows = self.items.index(batch.slate)
        users = self.users(batch.user, self.items.vector(rows), batch.click)
        kept = batch.shown.any(2)
        offset = self.session.parallel(self.items, batch)
        slates = self._slates(users[kept], rows[kept], offset[kept])
        log_likelihood = self.log_likelihood(slates, batch.click[kept] > 0)
        extra, measures = self.extra_loss(batch, users)
        return extra - log_likelihood.sum(), measures

    def log_likelihood(self, slates: _Slates, click: Tensor) -> Tensor:
        """Return the estimate [B] of the log-likelihood of clicked sets [B, S] bool."""
        b, s = click.shape
        n = click.sum(1)
        order = torch.rand(self.orders, b, s, device=click.device)
        order = order.masked_fill(~click, 2.0).argsort(2).flatten(0, 1)  # clicked ones first
        slates, n_clicks = slates.repeat(self.orders), n.repeat(self.orders)
        halt = torch.full_like(n_clicks, s)
        hidden, left = slates.hidden, torch.isfinite(slates.bias)
        total = torch.zeros_like(hidden[:, 0])
        for glance in range(int(n.max()) + 1 if len(n) else 0):
            scores = self._scores(slates, hidden, left)
            item = order[:, glance] if glance < s else halt
            choice = torch.where(glance < n_clicks, item, halt).unsqueeze(1)
            log_p = scores.gather(1, choice).squeeze(1)
            total = total + torch.where(glance <= n_clicks, log_p, 0.0)
            if glance < s:
                continues = (glance < n_clicks).unsqueeze(1)
                moved = self.cell(item_at(slates.item, item), hidden)
                hidden = torch.where(continues, moved, hidden)
                left = left & ~(F.one_hot(item, s).bool() & continues)
        by_order = total.view(self.orders, b)
        log_n_orders = torch.log(torch.tensor(float(self.orders)))
        return by_order.logsumexp(0) - log_n_orders + torch.lgamma(n + 1.0)

    def _walks(self, users: Tensor, rows: Tensor, offset: Tensor) -> Tensor:
        """Return the probability [B, W, S] of each position along each of the W walks."""
        n_walks, s = len(self.uniform), rows.shape[1]
        slates = self._slates(users, rows, offset).repeat_each(n_walks)
        uniform = self.uniform.repeat(len(rows), 1)
        hidden, left = slates.hidden, torch.isfinite(slates.bias)
        alive = torch.ones_like(left[:, 0])
        total = torch.zeros_like(slates.bias)
        for glance in range(s):
            p = self._scores(slates, hidden, left).exp()
            total = total + torch.where(alive.unsqueeze(1), p[:, :s], 0.0)
            choice = (p[:, :s].cumsum(1) <= uniform[:, glance : glance + 1]).sum(1)  # s = Halt
            alive = alive & (choice < s) & left.any(1)
            if all_ended(alive):
                break
            choice = choice.clamp(max=s - 1)
            moved = self.cell(item_at(slates.item, choice), hidden)
            hidden = torch.where(alive.unsqueeze(1), moved, hidden)
            left = left & ~(F.one_hot(choice, s).bool() & alive.unsqueeze(1))
        return total.clamp(_TINY, 1 - _TINY).view(len(rows), n_walks, s)

    def _mix(
        self, p: Tensor, shown: Tensor, click: Tensor | None, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Read the positions from the top, weighting the walks by the clicks above.

        Args:
            p: [B, W, S] from `_walks`.
            shown: [B, S] bool.
            click: [B, S] given clicks, or
            uniform: [B, S] in [0, 1) to draw them by; with neither, the clicks are averaged out.

        Returns:
            log-odds [B, S] and clicks [B, S] bool.
        """
        weight = torch.zeros_like(p[:, :, 0])
        logits, clicks = [], []
        for s in range(p.shape[2]):
            by_walk = p[:, :, s]
            mean = (weight.softmax(1) * by_walk).sum(1)
            logits.append(torch.logit(mean, eps=_TINY))
            if click is not None:
                clicked = click[:, s] > 0
            else:
                clicked = torch.zeros_like(shown[:, s]) if uniform is None else uniform[:, s] < mean
            clicked = clicked & shown[:, s]
            if click is not None or uniform is not None:
                likelihood = torch.where(clicked.unsqueeze(1), by_walk, 1 - by_walk)
                weight = weight + likelihood.log() * shown[:, s].unsqueeze(1)
            clicks.append(clicked)
        return torch.stack(logits, 1), torch.stack(clicks, 1)

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`. Without clicks they are unconditional."""
        offset = self.session_log_odds(state, slate)
        p = self._walks(self.memory(state), self.items.index(slate), offset)
        return self._mix(p, slate >= 0, click, None)[0]

    def marginal(self, state: State, slate: Tensor) -> Tensor:
        # Exact: clicks are independent within a walk, and without clicks all walks weigh alike.
        return click_probability(self.logits(state, slate), slate)

    def respond(
        self, state: State, slate: Tensor, uniform: Tensor, offset: Tensor | None = None
    ) -> Response:
        offset = self.session_log_odds(state, slate) if offset is None else offset
        p = self._walks(self.memory(state), self.items.index(slate), offset)
        logits, click = self._mix(p, slate >= 0, None, uniform)
        probability = click_probability(logits, slate)
        return Response(click, probability, self.observe(state, slate, click))

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions in parallel."""
        b, r, s = batch.slate.shape
        rows = self.items.index(batch.slate)
        users = self.users(batch.user, self.items.vector(rows), batch.click)
        offset = self.session.parallel(self.items, batch).view(b * r, s)
        p = self._walks(users.reshape(b * r, -1), rows.view(b * r, s), offset)
        shown, click = batch.shown.view(b * r, s), batch.click.view(b * r, s)
        return Evaluation(self._mix(p, shown, click, None)[0].view(b, r, s), users)


def item_at(item: Tensor, position: Tensor) -> Tensor:
    """Return the vectors [B, d] of items [B, S, d] at one position [B] each."""
    return item.gather(1, position.view(-1, 1, 1).expand(-1, 1, item.shape[-1])).squeeze(1)


def all_ended(alive: Tensor) -> bool:
    """Return whether every walk [B] bool has ended; on a GPU never, to avoid a synchronisation."""
    return alive.device.type == "cpu" and not bool(alive.any())
