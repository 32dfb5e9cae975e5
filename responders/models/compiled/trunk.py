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
        memory = memory_of(trunk["hidden"], torch.zeros(0, dtype=torch.int64), session)
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
    position = readout.position_bias.weight.squeeze(1)
    parts = [torch.zeros(0, 0)] * 5 + [torch.zeros(0)]
    if feedback is not None:
        vector = items.vector(items.every_row())
        parts = [
            feedback.query(vector),
            feedback.key(vector),
            feedback.position_query.weight,
            feedback.position_key.weight,
            feedback.gate.weight.t(),
            feedback.gate.bias,
        ]
    finishing = finishing_of(readout.finishing(), len(position))
    return Answering(array(position), *finishing, *map(array, parts))


def layers_of(
    lift: nn.Linear, cells: Sequence[MinGRUCell], feed_forwards: Sequence[FeedForward]
) -> Layers:
    """Return the weights of the trunk."""
    gates, candidates = [cell.gate for cell in cells], [cell.candidate for cell in cells]
    norms, inner, _, outer = zip(*feed_forwards, strict=True)
    stacked = []
    for modules in (gates, candidates, norms, inner, outer):
        weights = [m.weight.t() if m.weight.ndim == 2 else m.weight for m in modules]
        stacked += [torch.stack(weights), torch.stack([m.bias for m in modules])]
    return Layers(*map(array, (lift.weight.t(), lift.bias, *stacked)))
