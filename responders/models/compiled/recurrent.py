"""`SessionGRU` and `HierarchicalGRU` compiled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from responders.models.base import Response
from responders.models.compiled.arrays import (
    array,
    finishing_of,
    memory_of,
    session_of,
    session_state,
)
from responders.models.compiled.kernels import Network, respond
from responders.models.compiled.session import Items
from responders.models.neural import Prepared
from responders.models.parts.click_gru import Tables
from responders.models.parts.items import ItemEncoder
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
        memory = memory_of(state["hidden"], state["above"], state["session"])
        added = np.empty(slate.shape, np.float32) if offset is None else array(offset)
        click = np.zeros(slate.shape, np.bool_)
        probability = np.zeros(slate.shape, np.float32)
        respond(
            array(slate), array(uniform), memory, *self.constants, added, offset is not None,
            click, probability,
        )  # fmt: skip
        after: State = {
            "hidden": torch.from_numpy(memory.hidden),
            "above": torch.from_numpy(memory.above),
            "session": session_state(memory, state["session"]),
        }
        return Response(torch.from_numpy(click), torch.from_numpy(probability), after)


def items_of(items: ItemEncoder, session: SessionTables, tables: Tables) -> Items:
    """Return the tables of items as arrays that share their memory."""
    shared = tables.shown, tables.clicked, tables.readout, tables.bias, *session
    return Items(*map(array, (items.row_of_item, *shared)))


def network_of(tables: Tables, weight: Tensor, bias: Tensor) -> Network:
    """Return the weights of the network: the tables and the recurrent ones, [3H, H] and [3H]."""
    return Network(
        *map(array, (weight.t(), bias, tables.position, tables.last_click)),
        *finishing_of(tables.finishing, len(tables.position)),
    )
