"""Several responders as one: the mean of what they say, and how far they disagree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from responders.errors import InputError
from responders.log.batch import SessionBatch
from responders.log.catalogue import Catalogue
from responders.models.base import Responder, Response, draw_uniform
from responders.models.state import State

MEMBER = "member"
"""Entry of an ensemble's state: [B] int64, the member that answers each user; -1 = their mean."""


class Ensemble(Responder):
    """The mean of the probabilities of several responders of one catalogue.

    Each member sees the same slates and clicks and keeps its own state. `disagreement` says how
    uncertain the simulation is where the log says little: the members' deviation. A user whose
    state names a member (`MEMBER`) is answered by that one alone: a set of simulators in one batch
    (domain randomisation, after Sim2Rec, Chen et al., 2023).

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
        super().__init__(members[0].shape)
        self.members: Sequence[Responder] = nn.ModuleList(members)  # type: ignore[assignment]
        self.reads_history = any(m.reads_history for m in members)
        self.reads_clicks_above = any(m.reads_clicks_above for m in members)
        self.trained_by_gradient = False

    def extend(self, catalogue: Catalogue) -> None:
        """Make room for cold items in every member."""
        for member in self.members:
            member.extend(catalogue)
        self.shape = self.members[0].shape

    def state_of(self, state: State, i: int) -> State:
        """Return the state of member `i`."""
        head = f"{i}."
        return {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}

    def _joined(self, states: Sequence[State]) -> State:
        return {f"{i}.{k}": v for i, state in enumerate(states) for k, v in state.items()}

    def start(self, user: Tensor) -> State:
        """Return the state of new users; see `Responder.start`."""
        nobody = torch.full((len(user),), -1, device=user.device)
        return self._joined([member.start(user) for member in self.members]) | {MEMBER: nobody}

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after the slate; see `Responder.observe`."""
        seen = [
            m.observe(self.state_of(state, i), slate, click) for i, m in enumerate(self.members)
        ]
        return self._joined(seen) | {MEMBER: state[MEMBER]}

    def probabilities(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return each member's probabilities, [M, B, S]; clicks as in `Responder.logits`."""
        return torch.stack(
            [
                m.logits(self.state_of(state, i), slate, click).sigmoid()
                for i, m in enumerate(self.members)
            ]
        )

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return the log-odds [B, S] of the mean probability; see `Responder.logits`."""
        return torch.logit(self._chosen(state, self.probabilities(state, slate, click)), eps=1e-7)

    @staticmethod
    def _chosen(state: State, p: Tensor) -> Tensor:
        """Return the mean of `p` [M, B, S], or what each user's member says: [B, S]."""
        member = state[MEMBER]
        own = p.gather(0, member.clamp(min=0).view(1, -1, 1).expand(1, *p.shape[1:]))[0]
        return torch.where((member >= 0).unsqueeze(1), own, p.mean(0))

    def forward(self, batch: SessionBatch) -> Tensor:
        """Return log-odds [B, R, S]; see `Responder.forward`."""
        mean = torch.stack([member(batch).sigmoid() for member in self.members]).mean(0)
        return torch.logit(mean, eps=1e-7)

    def respond(
        self,
        state: State,
        slate: Tensor,
        generator: torch.Generator | None = None,
        *,
        uniform: Tensor | None = None,
    ) -> Response:
        """Draw clicks; `disagreement` is the members' deviation. See `Responder.respond`.

        Where a member reads the clicks above, the members are asked once for every position.
        """
        uniform = draw_uniform(slate, generator, uniform)
        shown = slate >= 0
        click = torch.zeros_like(shown)
        steps = range(slate.shape[1]) if self.reads_clicks_above else [slice(None)]
        for s in steps:
            p = self.probabilities(state, slate, click.float())
            mean = torch.logit(self._chosen(state, p), eps=1e-7).sigmoid()
            click[:, s] = ((uniform < mean) & shown)[:, s]
        return Response(
            click,
            torch.where(shown, mean, 0.0),
            self.observe(state, slate, click),
            torch.where(shown, p.std(0, correction=0), 0.0),
        )
