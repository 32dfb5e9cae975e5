"""`SessionGRU` and `HierarchicalGRU` compiled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from responders.models.base import Response
from responders.models.compiled.kernels import Network, respond
from responders.models.compiled.session import Items, Memory, Session
from responders.models.neural import Prepared
from responders.models.parts.click_gru import Tables
from responders.models.parts.exposure import CURVATURE
from responders.models.parts.items import ItemEncoder
from responders.models.parts.readout import STEP
from responders.models.parts.session_context import SessionContext, SessionTables
from responders.models.state import State


class CompiledGRU:
    """The `respond` of a responder that carries the hidden state of a GRU, in compiled loops.

    Args:
        items: of the responder.
        context: of the responder.
        prepared: its tables, on the CPU.
        recurrent: [3H, H] and [3H], weights and bias that the hidden state meets.
        carries_mean: whether the mean of a slate's hidden states is carried on, not the last one.
    """

    def __init__(
        self,
        items: ItemEncoder,
        context: SessionContext,
        prepared: Prepared,
        recurrent: tuple[Tensor, Tensor],
        carries_mean: bool,
    ) -> None:
        self.has_match, self.has_exposure = context.match is not None, context.exposure is not None
        self.constants = (
            items_of(items, prepared.session, prepared.network),
            network_of(prepared.network, *recurrent),
            session_of(context),
            carries_mean,
        )

    def __call__(
        self, state: State, slate: Tensor, uniform: Tensor, offset: Tensor | None = None
    ) -> Response:
        """Draw the clicks of B users on `slate`; see `NeuralResponder.respond`."""
        memory = self._copy(state)
        added = np.empty(slate.shape, np.float32) if offset is None else array(offset)
        click = np.zeros(slate.shape, np.bool_)
        probability = np.zeros(slate.shape, np.float32)
        respond(
            array(slate), array(uniform), memory, *self.constants, added, offset is not None,
            click, probability,
        )  # fmt: skip
        return Response(torch.from_numpy(click), torch.from_numpy(probability), self._state(memory))

    def _copy(self, state: State) -> Memory:
        """Return a state as arrays of its own."""
        session = state["session"]
        users = session["users"].values() if self.has_match else _NO_USERS
        exposure = session["exposure"].values() if self.has_exposure else _NO_EXPOSURE
        leaves = state["hidden"], state["above"], session["counts"], *users, *exposure
        return Memory(*(leaf.numpy().copy() for leaf in leaves))

    def _state(self, memory: Memory) -> State:
        hidden, above, counts, features, clicked, clicks, groups, slates = map(
            torch.from_numpy, memory
        )
        session: State = {"counts": counts}
        if self.has_match:
            session["users"] = {"features": features, "clicked": clicked, "clicks": clicks}
        if self.has_exposure:
            session["exposure"] = {"groups": groups, "slates": slates}
        return {"hidden": hidden, "above": above, "session": session}


_NO_USERS = torch.zeros(0, 0), torch.zeros(0, 0), torch.zeros(0, 0)
_NO_EXPOSURE = torch.zeros(0, 0, 0), torch.zeros(0, 0, 0, dtype=torch.int64)


def items_of(items: ItemEncoder, session: SessionTables, tables: Tables) -> Items:
    """Return the tables of items as arrays that share their memory."""
    shared = tables.shown, tables.clicked, tables.readout, tables.bias, *session
    return Items(*map(array, (items.row_of_item, *shared)))


def network_of(tables: Tables, weight: Tensor, bias: Tensor) -> Network:
    """Return the weights of the network: the tables and the recurrent ones, [3H, H] and [3H]."""
    per_click, bounds = tables.finishing
    looked = torch.zeros(len(tables.position))
    log_looked, log_missed = (
        (looked, looked - torch.inf) if bounds is None else (bounds.log_looked, bounds.log_missed)
    )
    return Network(
        *map(array, (weight.t(), bias, tables.position, tables.last_click)),
        *map(array, (per_click, log_looked, log_missed)),
    )


def session_of(context: SessionContext) -> Session:
    """Return the weights of a session context."""
    none = torch.zeros(0)
    match = none.view(0, 0) if context.match is None else context.match.matrix.weight
    exposure = context.exposure
    decay, recency, linear, logarithmic = none, none.view(0, 0), none, none
    if exposure is not None:
        decay, recency = exposure.decay, exposure.recency
        linear, logarithmic = (STEP * exposure.weight.detach()).square()
    return Session(
        array(context.counts.weight.weight[0]),
        array(match),
        array(decay),
        array(recency),
        array(linear),
        array(logarithmic / CURVATURE**0.5),
    )


def array(tensor: Tensor) -> np.ndarray:
    """Return a tensor as a contiguous array, which shares its memory where that is possible."""
    return np.ascontiguousarray(tensor.detach().numpy())
