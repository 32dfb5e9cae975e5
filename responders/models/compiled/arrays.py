"""The tensors of a responder as NumPy arrays, which share their memory, for compiled loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from responders.models.compiled.session import Memory, Session
from responders.models.parts.exposure import CURVATURE
from responders.models.parts.readout import STEP, Finishing
from responders.models.parts.session_context import SessionContext
from responders.models.state import State

_NO_USERS = torch.zeros(0, 0), torch.zeros(0, 0), torch.zeros(0, 0)
_NO_EXPOSURE = torch.zeros(0, 0, 0), torch.zeros(0, 0, 0, dtype=torch.int64)


def array(tensor: Tensor) -> np.ndarray:
    """Return a tensor as a contiguous array, which shares its memory where that is possible."""
    return np.ascontiguousarray(tensor.detach().numpy())


def finishing_of(finishing: Finishing, n_positions: int) -> tuple[np.ndarray, ...]:
    """Return the log-odds of each click above, and the bounds [S] of S positions."""
    looked = torch.zeros(n_positions)
    log_looked, log_missed = looked, looked - torch.inf
    if finishing.bounds is not None:
        log_looked, log_missed = finishing.bounds.log_looked, finishing.bounds.log_missed
    return array(finishing.per_click.reshape(1)), array(log_looked), array(log_missed)


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


def memory_of(hidden: Tensor, above: Tensor, session: State) -> Memory:
    """Return copies of the hidden states [B, H], `above` [B] and the state of a session context."""
    users = session["users"].values() if "users" in session else _NO_USERS
    exposure = session["exposure"].values() if "exposure" in session else _NO_EXPOSURE
    leaves = hidden, above, session["counts"], *users, *exposure
    return Memory(*(leaf.numpy().copy() for leaf in leaves))


def session_state(memory: Memory, before: State) -> State:
    """Return the state of a session context, with the parts that `before` has."""
    counts, features, clicked, clicks, groups, slates = map(torch.from_numpy, memory[2:])
    session: State = {"counts": counts}
    if "users" in before:
        session["users"] = {"features": features, "clicked": clicked, "clicks": clicks}
    if "exposure" in before:
        session["exposure"] = {"groups": groups, "slates": slates}
    return session
