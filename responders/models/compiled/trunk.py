"""`MinGRU` compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from responders.models.compiled.session import Items
from responders.models.compiled.trunk_kernels import Answering, Layers, respond
from responders.models.parts.session_context import SessionTables
from responders.models.state import State

if TYPE_CHECKING:
    from responders.models.slate_trunks import MinGRU, SlateTrunk


class CompiledMinGRU:
    """The `respond` of a `MinGRU` in compiled loops.

    Args:
        responder: with weights that do not change.
        tables: of its session context, on the CPU.
    """

    def __init__(self, responder: MinGRU, tables: SessionTables) -> None:
        self.constants = (
            items_of(responder, tables),
            answering_of(responder),
            layers_of(responder),
            session_of(responder.session),
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


def items_of(responder: SlateTrunk, tables: SessionTables) -> Items:
    """Return the tables of items; those of a GRU's gates are empty."""
    items, readout = responder.items, responder.readout
    none, every = torch.zeros(0, 0), items.every_row()
    vector = items.vector(every)
    weight = vector @ readout.match.weight + readout.out.weight
    bias = vector @ readout.match.bias + items.bias(every) + readout.out.bias
    return Items(*map(array, (items.row_of_item, none, none, weight, bias, *tables)))


def answering_of(responder: SlateTrunk) -> Answering:
    """Return what makes log-odds of a hidden state and a slate."""
    readout, feedback = responder.readout, responder.feedback
    position = readout.position_bias.weight.squeeze(1)
    parts = [torch.zeros(0, 0)] * 5 + [torch.zeros(0)]
    if feedback is not None:
        vector = responder.items.vector(responder.items.every_row())
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


def layers_of(responder: MinGRU) -> Layers:
    """Return the weights of the trunk."""
    gates = [cell.gate for cell in responder.cells]
    candidates = [cell.candidate for cell in responder.cells]
    norms, inner, _, outer = zip(*responder.feed_forwards, strict=True)
    stacked = []
    for modules in (gates, candidates, norms, inner, outer):
        weights = [m.weight.t() if m.weight.ndim == 2 else m.weight for m in modules]
        stacked += [torch.stack(weights), torch.stack([m.bias for m in modules])]
    lift = responder.lift
    return Layers(*map(array, (lift.weight.t(), lift.bias, *stacked)))
