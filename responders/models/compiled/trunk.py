"""`MinGRU` compiled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from responders.models.base import Response
from responders.models.compiled.arrays import (
    array,
    finishing_of,
    memory_of,
    session_of,
    session_state,
)
from responders.models.compiled.session import Items
from responders.models.compiled.trunk_kernels import Answering, Layers, respond
from responders.models.parts.attention import FeedForward
from responders.models.parts.feedback import Feedback
from responders.models.parts.items import ItemEncoder
from responders.models.parts.readout import Readout
from responders.models.parts.scan import MinGRUCell
from responders.models.parts.session_context import SessionContext, SessionTables
from responders.models.state import State

_NOTHING = torch.zeros(0, dtype=torch.int64)


class CompiledMinGRU:
    """The `respond` of a `MinGRU` in compiled loops. Its arguments are the parts of the responder.

    Args:
        items: makes the item vectors.
        readout: makes the log-odds.
        feedback: of clicks; None = there is none.
        session: the session context.
        tables: of the session context, on the CPU.
        lift: makes the tokens.
        cells: of the layers.
        feed_forwards: of the layers.
    """

    def __init__(
        self,
        items: ItemEncoder,
        readout: Readout,
        feedback: Feedback | None,
        session: SessionContext,
        tables: SessionTables,
        lift: nn.Linear,
        cells: Sequence[MinGRUCell],
        feed_forwards: Sequence[FeedForward],
    ) -> None:
        self.constants = (
            items_of(items, readout, tables),
            answering_of(items, readout, feedback),
            layers_of(lift, cells, feed_forwards),
            session_of(session),
        )

    def __call__(self, state: State, slate: Tensor, uniform: Tensor) -> Response:
        """Draw the clicks of B users on `slate`; see `Responder.respond`."""
        trunk, session = state["trunk"], state["session"]
        memory = memory_of(trunk["hidden"], _NOTHING, session)
        layers = trunk["layers"].numpy().copy()
        click = np.zeros(slate.shape, np.bool_)
        probability = np.zeros(slate.shape, np.float32)
        respond(array(slate), array(uniform), memory, layers, *self.constants, click, probability)
        after: State = {
            "trunk": {
                "layers": torch.from_numpy(layers),
                "hidden": torch.from_numpy(memory.hidden),
            },
            "session": session_state(memory, session),
        }
        return Response(torch.from_numpy(click), torch.from_numpy(probability), after)


def items_of(items: ItemEncoder, readout: Readout, tables: SessionTables) -> Items:
    """Return the tables of items; those of a GRU's gates are empty."""
    none, every = torch.zeros(0, 0), items.every_row()
    vector = items.vector(every)
    weight = vector @ readout.match.weight + readout.out.weight
    bias = vector @ readout.match.bias + items.bias(every) + readout.out.bias
    return Items(*map(array, (items.row_of_item, none, none, weight, bias, *tables)))


def answering_of(items: ItemEncoder, readout: Readout, feedback: Feedback | None) -> Answering:
    """Return what makes log-odds of a hidden state and a slate."""
    position = readout.position_bias.weight.squeeze(1).detach().numpy()
    per_click, *bounds = finishing_of(readout.finishing(), len(position))
    pair = position_pair = gate = torch.zeros(0, 0)
    if feedback is not None:
        vector = items.vector(items.every_row())
        pair = torch.cat([feedback.query(vector), feedback.key(vector)], 1)
        position_pair = torch.cat([feedback.position_query.weight, feedback.position_key.weight], 1)
        gate = with_bias(feedback.gate)
    return Answering(
        per_click, np.stack([position, *bounds]), *map(array, (pair, position_pair, gate))
    )


def layers_of(
    lift: nn.Linear, cells: Sequence[MinGRUCell], feed_forwards: Sequence[FeedForward]
) -> Layers:
    """Return the weights of the trunk."""
    norms, inner, _, outer = zip(*feed_forwards, strict=True)
    cell = [torch.cat([with_bias(c.gate), with_bias(c.candidate)], 1) for c in cells]
    norm = [torch.stack([n.weight, n.bias]) for n in norms]
    stacked = cell, norm, *([with_bias(m) for m in modules] for modules in (inner, outer))
    return Layers(array(with_bias(lift)), *(array(torch.stack(each)) for each in stacked))


def with_bias(layer: nn.Linear) -> Tensor:
    """Return the transposed weights of a layer and its bias as the last row, [n + 1, m]."""
    return torch.cat([layer.weight.t(), layer.bias.unsqueeze(0)])
