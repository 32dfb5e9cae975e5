"""The step of a recurrent responder as loops over users, positions and units.

They compute what `ClickGRU.read` and `SessionContext` compute, in the same order. All numbers are
float32, indices int64; H and S are as there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from responders.compiling import compiled
from responders.models.compiled.activations import exponential, sigmoid, tanh
from responders.models.compiled.session import (
    Items,
    Memory,
    Session,
    add_session,
    dot,
    look_up,
    observe,
)

_ZERO, _ONE = np.float32(0), np.float32(1)


class Network(NamedTuple):
    """The weights of a `ClickGRU` and what finishes its log-odds."""

    recurrent: np.ndarray  # [H, 3H] transposed, so that the inner loop runs over gates
    recurrent_bias: np.ndarray  # [3H]
    position: np.ndarray  # [S, 3H]
    last_click: np.ndarray  # [S, S + 1]
    per_click: np.ndarray  # [1]
    log_looked: np.ndarray  # [S]; zeros where nothing is bounded
    log_missed: np.ndarray  # [S]; -inf where nothing is bounded


@compiled
def respond(
    slate: np.ndarray,
    uniform: np.ndarray,
    memory: Memory,
    items: Items,
    network: Network,
    session: Session,
    carries_mean: bool,
    offset: np.ndarray,
    is_offset_given: bool,
    click: np.ndarray,
    probability: np.ndarray,
) -> None:
    """Draw the clicks of B users on slates [B, S'], S' ≤ S.

    Args:
        slate: [B, S'] int64, -1 = empty.
        uniform: [B, S'] in [0, 1).
        memory: before the slate; the state after it is written into it.
        items: tables.
        network: weights.
        session: weights.
        carries_mean: whether the mean of a slate's hidden states is carried on, not the last one.
        offset: [B, S'], what the session adds to the log-odds.
        is_offset_given: whether that is known; otherwise it is written into `offset`.
        click: [B, S'] bool, zeros; the clicks are written into it.
        probability: [B, S'], zeros; the probabilities are written into it.

    Raises:
        IndexError: the slate is too wide or has an item outside the catalogue.
    """
    n_users, n_positions = slate.shape
    empty, rows = items.row_of_item[0], np.empty(n_positions, np.int64)
    for user in range(n_users):
        look_up(slate[user], network.position.shape[0], items, rows)
        if not is_offset_given:
            add_session(user, slate[user], rows, memory, items, session, offset[user])
        memory.above[user] = read(
            rows, empty, offset[user], uniform[user], memory.above[user], memory.hidden[user],
            items, network, carries_mean, click[user], probability[user],
        )  # fmt: skip
        observe(user, slate[user], rows, click[user], memory, items, session)


@compiled
def read(
    rows: np.ndarray,
    empty: int,
    offset: np.ndarray,
    uniform: np.ndarray,
    above: int,
    hidden: np.ndarray,
    items: Items,
    network: Network,
    carries_mean: bool,
    click: np.ndarray,
    probability: np.ndarray,
) -> int:
    """Read a slate of one user, `ClickGRU.read`.

    Args:
        rows: [S] table rows.
        empty: the row of an empty position.
        offset: [S] added to the log-odds.
        uniform: [S].
        above: table row of the last item if it was clicked.
        hidden: [H]; the hidden state after the slate is written into it.
        items: tables.
        network: weights.
        carries_mean: see `respond`.
        click: [S] bool; the clicks are written into it.
        probability: [S]; written into.

    Returns:
        `above` after the slate.
    """
    size, n_positions = hidden.shape[0], network.position.shape[0]
    gates = np.empty(3 * size, np.float32)
    total, n_filled = np.zeros(size, np.float32), _ZERO
    state = hidden.copy()
    last, n_clicks = n_positions, _ZERO  # position of the last click; S = none
    for s in range(rows.shape[0]):
        row = rows[s]
        if row == empty:  # changes nothing
            continue
        step(state, gates, items.shown[row], network.position[s], items.clicked[above], network)
        log_odds = dot(items.readout[row], state) + items.bias[row] + offset[s]
        log_odds += network.last_click[s, last] + network.per_click[0] * n_clicks
        log_odds += network.log_looked[s] - softplus(log_odds + network.log_missed[s])
        probability[s] = sigmoid(log_odds)
        click[s] = uniform[s] < probability[s]
        above = row if click[s] else empty
        if click[s]:
            last, n_clicks = s, n_clicks + _ONE
        for i in range(size):
            total[i] += state[i]
        n_filled += _ONE
    for i in range(size):
        if not carries_mean:
            hidden[i] = state[i]
        elif n_filled > 0:
            hidden[i] = total[i] / n_filled
    return above


@compiled
def step(
    state: np.ndarray,
    gates: np.ndarray,
    shown: np.ndarray,
    position: np.ndarray,
    clicked: np.ndarray,
    network: Network,
) -> None:
    """Replace `state` [H] by the next one, as `nn.GRU` defines it.

    Args:
        state: [H].
        gates: [3H] to compute in.
        shown: [3H] input of the item shown.
        position: [3H] input of its position.
        clicked: [3H] input of the item above if it was clicked, else zeros.
        network: weights.
    """
    size = state.shape[0]
    for j in range(3 * size):
        gates[j] = network.recurrent_bias[j]
    for k in range(size):
        unit = state[k]
        for j in range(3 * size):
            gates[j] += unit * network.recurrent[k, j]
    for j in range(2 * size):
        gates[j] = sigmoid(gates[j] + shown[j] + position[j] + clicked[j])
    for i in range(size):
        j = 2 * size + i
        candidate = tanh(shown[j] + position[j] + clicked[j] + gates[i] * gates[j])
        state[i] = candidate + gates[size + i] * (state[i] - candidate)


@compiled
def softplus(x: np.float32) -> np.float32:
    """Return log(1 + e^x)."""
    return max(x, _ZERO) + math.log1p(exponential(-abs(x)))
