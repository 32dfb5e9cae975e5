"""Several responders as one: the mean of their probabilities, and how far they disagree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from responders.config import Config
from responders.errors import InputError
from responders.log.batch import SessionBatch
from responders.log.catalogue import Catalogue
from responders.models.base import Responder, Response, average_over_draws
from responders.models.state import State


class Ensemble(Responder):
    """The mean of the probabilities of several responders of one catalogue.

    Each member sees the same slates and clicks and keeps its own state. `disagreement`, the
    standard deviation of the members' probabilities, shows where the log says little. Each user
    may also be answered by one member alone (`member`): a set of simulators in one batch (domain
    randomisation, after Sim2Rec, Chen et al., 2023).

    Args:
        members: at least one responder, all for the same items, positions and user features.
    """

    def __init__(self, members: Sequence[Responder]) -> None:
        if not members:
            raise InputError("an ensemble needs at least one responder")
        for i, member in enumerate(members):
            if member.shape != members[0].shape:
                raise InputError(
                    f"member {i} answers {member.shape}, member 0 {members[0].shape}: all members "
                    "of an ensemble must be trained on one catalogue"
                )
        super().__init__(members[0].shape, Config())
        self.members: Sequence[Responder] = nn.ModuleList(members)  # type: ignore[assignment]
        self.reads_history = any(m.reads_history for m in members)
        self.reads_clicks_above = any(m.reads_clicks_above for m in members)
        self.trained_by_gradient = False

    def extend(self, catalogue: Catalogue) -> None:
        """Make room for cold items in every member."""
        for member in self.members:
            member.extend(catalogue)
        self.shape = self.members[0].shape

    def prepare(self) -> None:
        for member in self.members:
            member.prepare()

    def start(self, user: Tensor) -> State:
        return {"members": [member.start(user) for member in self.members]}

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        pairs = zip(self.members, state["members"], strict=True)
        return {"members": [member.observe(own, slate, click) for member, own in pairs]}

    def leave_log_odds(self, state: State) -> Tensor | None:
        return self.members[0].leave_log_odds(state["members"][0])  # whose hazard is used as well

    def probabilities(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return each member's probabilities, [M, B, S]; clicks as in `Responder.logits`."""
        pairs = zip(self.members, state["members"], strict=True)
        return torch.stack([member.logits(own, slate, click).sigmoid() for member, own in pairs])

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        return torch.logit(self.probabilities(state, slate, click).mean(0), eps=1e-7)

    def forward(self, batch: SessionBatch) -> Tensor:
        mean = torch.stack([member(batch).sigmoid() for member in self.members]).mean(0)
        return torch.logit(mean, eps=1e-7)

    def marginal(self, state: State, slate: Tensor, member: Tensor | None = None) -> Tensor:
        """Return probabilities given the history alone; see `Responder.marginal`."""
        if self.reads_clicks_above:
            members = () if member is None else (member,)
            return average_over_draws(self.respond, state, slate, *members)
        answer = _answer(self.probabilities(state, slate), member)
        return torch.where(slate >= 0, answer, 0.0)

    def respond(
        self, state: State, slate: Tensor, uniform: Tensor, member: Tensor | None = None
    ) -> Response:
        """Draw clicks; see `Responder.respond`.

        Where a member reads the clicks above, the members are evaluated once for every position.

        Args:
            state: of B users, before the slate.
            slate: [B, S].
            uniform: [B, S] in [0, 1).
            member: [B] int64, the member that answers each user; None = the mean of all.
        """
        shown = slate >= 0
        click = torch.zeros_like(shown)
        steps = range(slate.shape[1]) if self.reads_clicks_above else [slice(None)]
        for s in steps:
            p = self.probabilities(state, slate, click.float())
            answer = _answer(p, member)
            # Through log-odds, so that `logits` states exactly what is drawn from.
            answer = torch.logit(answer, eps=1e-7).sigmoid()
            click[:, s] = ((uniform < answer) & shown)[:, s]
        return Response(
            click,
            torch.where(shown, answer, 0.0),
            self.observe(state, slate, click),
            torch.where(shown, p.std(0, correction=0), 0.0),
        )


def _answer(probability: Tensor, member: Tensor | None) -> Tensor:
    """Return the mean [B, S] of the members' probabilities [M, B, S], or that of `member` [B]."""
    if member is None:
        return probability.mean(0)
    return probability.gather(0, member.view(1, -1, 1).expand(1, *probability.shape[1:]))[0]
