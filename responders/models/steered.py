"""A responder whose hidden states are moved in one direction."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from responders.config import Config
from responders.log.catalogue import Catalogue
from responders.models.base import Responder, Response
from responders.models.state import State


class Steered(Responder):
    """Scores slates from hidden states to which a vector is added.

    What is remembered of a user does not change with it: the vector is added before each slate is
    scored and is not carried on.

    Args:
        responder: one whose `hidden` is not None.
        direction: [D].
    """

    def __init__(self, responder: Responder, direction: Tensor) -> None:
        super().__init__(responder.shape, Config())
        self.direction: Tensor
        self.responder = responder
        self.register_buffer("direction", direction)
        self.reads_history = responder.reads_history
        self.reads_clicks_above = responder.reads_clicks_above
        self.trained_by_gradient = False

    def _moved(self, state: State) -> State:
        hidden = self.responder.hidden(state)
        assert hidden is not None
        return self.responder.with_hidden(state, hidden + self.direction)

    def start(self, user: Tensor) -> State:
        return self.responder.start(user)

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        return self.responder.logits(self._moved(state), slate, click)

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        return self.responder.observe(state, slate, click)

    def respond(self, state: State, slate: Tensor, uniform: Tensor) -> Response:
        answer = self.responder.respond(self._moved(state), slate, uniform)
        return replace(answer, state=self.observe(state, slate, answer.click))

    def marginal(self, state: State, slate: Tensor) -> Tensor:
        return self.responder.marginal(self._moved(state), slate)

    def leave_log_odds(self, state: State) -> Tensor | None:
        return self.responder.leave_log_odds(state)

    def hidden(self, state: State) -> Tensor | None:
        return self.responder.hidden(state)

    def with_hidden(self, state: State, hidden: Tensor) -> State:
        return self.responder.with_hidden(state, hidden)

    def prepare(self) -> None:
        self.responder.prepare()

    def extend(self, catalogue: Catalogue) -> None:
        """Make room for cold items."""
        self.responder.extend(catalogue)
        self.shape = self.responder.shape


def has_hidden(responder: Responder) -> bool:
    """Return whether a responder has hidden states."""
    user = torch.zeros(1, responder.shape.n_user_features)
    with torch.no_grad():
        return responder.hidden(responder.start(user)) is not None
