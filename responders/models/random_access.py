"""Random-access neural click model: the user picks items in any order, then stops (RANCM)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.log.batch import SessionBatch
from responders.models.base import LogShape, Response, draw_uniform
from responders.models.neural import Evaluation, NeuralResponder
from responders.models.parts.users import UserEncoder
from responders.models.state import State

_TINY = 1e-6


class _Glances(NamedTuple):
    """What a walk through a slate needs: B slates of S positions."""

    hidden: Tensor  # [B, H] before the first glance
    item: Tensor  # [B, S, d]
    bias: Tensor  # [B, S] item and position bias; minus infinity at empty positions


class RANCM(NeuralResponder):
    """At each glance a GRU emits a query that scores the items not yet clicked, and a Halt.

    The user clicks the item that a softmax over scores and Halt draws, the item enters the GRU, and
    so on until Halt (arXiv 2409.20055, after recurrent visual attention). The order of clicks need
    not be that of the positions, and a log does not tell it.

    *Training.* The likelihood of the clicked set is the sum over its orders of the product of the
    choices. It is estimated by `orders` orders drawn uniformly: k! times the mean of their
    probabilities, unbiased for the likelihood and exact for slates with at most one click; its
    log is a lower bound that tightens with `orders` (importance-weighted, Burda et al., 2016). Why
    so: k is small, so few orders cover the sum; the orders do not depend on the weights, so the
    bound's gradient has no extra term; REINFORCE on drawn clicks would be noisier by far.

    *Answers.* A click's probability given the clicks above is a sum over all ways to go on, so it
    is stated by a mixture: `walks` walks with fixed quasi-random numbers each give every item the
    probability to be picked somewhere along it (the sum over glances of its softmax weight, cut at
    1; its mean over walks is an unbiased estimate of the model's own where nothing is cut, as with
    click rates below one half). The clicks above weigh the walks,
    and `respond` draws from exactly what `logits` states. Within a walk clicks are independent.

    Args:
        shape: sizes of the log.
        item_features: as `NeuralResponder`.
        orders: click orders per slate in training.
        walks: walks per slate in answers.
        options: as `NeuralResponder`.
    """

    reads_clicks_above = True

    def __init__(
        self,
        shape: LogShape,
        item_features: Tensor | None = None,
        *,
        orders: int = 4,
        walks: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(shape, item_features, **options)
        self.orders = orders
        self.numbers: Tensor
        draws = torch.quasirandom.SobolEngine(shape.n_positions, scramble=True, seed=0).draw(walks)
        self.register_buffer("numbers", draws.clamp(_TINY, 1 - _TINY))

    def _build(self) -> int:
        self.readout.after = None  # the walks read the clicks, not the readout
        self.users = UserEncoder(self.shape.n_user_features, self.items.size)
        self.enter = nn.Linear(self.items.size, self.hidden_size)
        self.cell = nn.GRUCell(self.items.size, self.hidden_size)
        self.position = nn.Embedding(self.shape.n_positions, self.items.size)
        nn.init.normal_(self.position.weight, std=0.1)
        self.halt = nn.Linear(self.hidden_size, 1)
        nn.init.zeros_(self.halt.bias)  # an item's odds against Halt start as its odds of a click
        return self.items.size

    def _start(self, user: Tensor) -> State:
        return self.users.start(user)

    def memory(self, state: State) -> Tensor:
        """Return the users' vectors [B, d]."""
        return self.users.vector(state)

    def _observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        return self.users.observe(state, self.items(self.items.rows(slate)), click)

    def _begin(self, users: Tensor, rows: Tensor, offset: Tensor) -> _Glances:
        place = torch.arange(rows.shape[1], device=rows.device)
        bias = (self.items.bias(rows) + self.readout.position_bias(place)).squeeze(-1) + offset
        bias = bias.masked_fill(rows == self.items.empty, -torch.inf)
        item = self.items(rows)
        return _Glances(self.enter(users).tanh(), item + self.position(place), bias)

    def _scores(self, glances: _Glances, hidden: Tensor, left: Tensor) -> Tensor:
        """Return log-probabilities [B, S + 1] of the items `left` [B, S] and, last, of Halt."""
        match = torch.einsum("bd,bsd->bs", self.readout.match(hidden), glances.item)
        scores = (match + glances.bias + self.readout.out(hidden)).masked_fill(~left, -torch.inf)
        return torch.cat([scores, self.halt(hidden)], 1).log_softmax(1)

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return minus the bound on the log-likelihood of the clicked sets, summed over slates."""
        rows = self.items.rows(batch.slate)
        users = self.users(batch.user, self.items(rows), batch.click)
        kept = batch.shown.any(2)
        offset = self.session.parallel(batch)
        glances = self._begin(users[kept], rows[kept], offset[kept])
        found = self.log_likelihood(glances, batch.click[kept] > 0)
        extra, measures = self.extra_loss(batch, users)
        return extra - found.sum(), measures

    def log_likelihood(self, glances: _Glances, click: Tensor) -> Tensor:
        """Return the estimate [B] of the log-likelihood of clicked sets [B, S] bool."""
        b, s = click.shape
        n = click.sum(1)
        order = torch.rand(self.orders, b, s, device=click.device)
        order = order.masked_fill(~click, 2.0).argsort(2).flatten(0, 1)  # clicked ones first
        many = _Glances(*(t.repeat(self.orders, *[1] * (t.ndim - 1)) for t in glances))
        n_many, halted = n.repeat(self.orders), torch.full((len(order),), s, device=click.device)
        hidden, left = many.hidden, torch.isfinite(many.bias)
        total = torch.zeros_like(hidden[:, 0])
        for t in range(int(n.max()) + 1 if len(n) else 0):
            scores = self._scores(many, hidden, left)
            pick = order[:, t] if t < s else halted
            choice = torch.where(t < n_many, pick, halted).unsqueeze(1)
            log_p = scores.gather(1, choice).squeeze(1)
            total = total + torch.where(t <= n_many, log_p, 0.0)
            if t < s:
                picked = gather_item(many.item, pick)
                goes_on = (t < n_many).unsqueeze(1)
                hidden = torch.where(goes_on, self.cell(picked, hidden), hidden)
                left = left.scatter(1, pick.unsqueeze(1), False) & left | (left & ~goes_on)
        each = total.view(self.orders, b)
        orders_of_set = torch.lgamma(n + 1.0)
        return each.logsumexp(0) - torch.log(torch.tensor(float(self.orders))) + orders_of_set

    def _walks(self, users: Tensor, rows: Tensor, offset: Tensor) -> Tensor:
        """Return the probability [B, W, S] of each position along each of the W walks."""
        w, s = len(self.numbers), rows.shape[1]
        one = self._begin(users, rows, offset)
        glances = _Glances(*(t.repeat_interleave(w, 0) for t in one))
        numbers = self.numbers.repeat(len(rows), 1)
        hidden, left = glances.hidden, torch.isfinite(glances.bias)
        alive = torch.ones_like(left[:, 0])
        total = torch.zeros_like(glances.bias)
        for t in range(s):
            p = self._scores(glances, hidden, left).exp()
            total = total + torch.where(alive.unsqueeze(1), p[:, :s], 0.0)
            pick = (p[:, :s].cumsum(1) <= numbers[:, t : t + 1]).sum(1)  # s = Halt
            alive = alive & (pick < s) & left.any(1)
            if all_ended(alive):
                break
            pick = pick.clamp(max=s - 1)
            hidden = torch.where(
                alive.unsqueeze(1), self.cell(gather_item(glances.item, pick), hidden), hidden
            )
            left = left & ~(F.one_hot(pick, s).bool() & alive.unsqueeze(1))
        return total.clamp(_TINY, 1 - _TINY).view(len(rows), w, s)

    def _mix(
        self, p: Tensor, shown: Tensor, click: Tensor | None, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Go down the positions, weighing the walks by the clicks above.

        Args:
            p: [B, W, S] from `_walks`.
            shown: [B, S] bool.
            click: [B, S] given clicks, or
            uniform: [B, S] in [0, 1) to draw them by; with neither the clicks are averaged out.

        Returns:
            log-odds [B, S] and clicks [B, S] bool.
        """
        weight = torch.zeros_like(p[:, :, 0])
        logits, clicks = [], []
        for s in range(p.shape[2]):
            here = p[:, :, s]
            mean = (weight.softmax(1) * here).sum(1)
            logits.append(torch.logit(mean, eps=_TINY))
            if click is not None:
                clicked = click[:, s] > 0
            else:
                clicked = torch.zeros_like(shown[:, s]) if uniform is None else uniform[:, s] < mean
            clicked = clicked & shown[:, s]
            if click is not None or uniform is not None:
                seen = torch.where(clicked.unsqueeze(1), here, 1 - here).log()
                weight = weight + seen * shown[:, s].unsqueeze(1)
            clicks.append(clicked)
        return torch.stack(logits, 1), torch.stack(clicks, 1)

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return log-odds [B, S]; see `Responder.logits`. Without clicks they are unconditional."""
        p = self._walks(self.memory(state), self.items.rows(slate), self.session(state))
        return self._mix(p, slate >= 0, click, None)[0]

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
        p = self._walks(self.memory(state), self.items.rows(slate), self.session(state))
        logits, click = self._mix(p, slate >= 0, None, uniform)
        probability = torch.where(slate >= 0, logits.sigmoid(), 0.0)
        return Response(click, probability, self.observe(state, slate, click))

    def evaluate(self, batch: SessionBatch) -> Evaluation:
        """Evaluate whole sessions at once."""
        b, r, s = batch.slate.shape
        rows = self.items.rows(batch.slate)
        users = self.users(batch.user, self.items(rows), batch.click)
        offset = self.session.parallel(batch).view(-1, 1)
        p = self._walks(users.reshape(b * r, -1), rows.view(b * r, s), offset)
        shown, click = batch.shown.view(b * r, s), batch.click.view(b * r, s)
        return Evaluation(self._mix(p, shown, click, None)[0].view(b, r, s), users)


def gather_item(item: Tensor, pick: Tensor) -> Tensor:
    """Return the vectors [B, d] of the positions `pick` [B] of items [B, S, d]."""
    return item.gather(1, pick.view(-1, 1, 1).expand(-1, 1, item.shape[-1])).squeeze(1)


def all_ended(alive: Tensor) -> bool:
    """Return whether no walk [B] bool goes on; on a GPU never, for looking would wait."""
    return alive.device.type == "cpu" and not bool(alive.any())
