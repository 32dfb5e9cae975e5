"""The step of a `MinGRU` as loops over users, positions and units.

They compute what `SlateTrunk`, `Feedback` and `MinGRU` compute. All numbers are float32, indices
int64; H, S and d are as there, L is the number of layers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from responders.compiling import compiled
from responders.models.compiled.activations import sigmoid
from responders.models.compiled.kernels import softplus
from responders.models.compiled.session import (
    Items,
    Memory,
    Session,
    add_session,
    dot,
    look_up,
    observe,
)

_ZERO, _ONE, _TWO, _HALF = (np.float32(x) for x in (0, 1, 2, 0.5))
_ROOT_HALF, _EPSILON = np.float32(math.sqrt(0.5)), np.float32(1e-5)


# Few arrays, as numba takes a part of a microsecond to receive each.


class Answering(NamedTuple):
    """What makes log-odds of a hidden state and a slate, with the feedback of clicks."""

    per_click: np.ndarray  # [1]
    position: np.ndarray  # [3, S] log-odds; log of looked at and of missed (0, -inf: no bounds)
    pair: np.ndarray  # [rows, 2d] queries and keys; [0, 0] without feedback, as are the next two
    position_pair: np.ndarray  # [S, 2d]
    gate: np.ndarray  # [H + 1, d] transposed, the last row is the bias


class Layers(NamedTuple):
    """The weights of the trunk, transposed, so that inner loops run over the results.

    The last row of each matrix is its bias.
    """

    lift: np.ndarray  # [2d + 2, H]
    cell: np.ndarray  # [L, H + 1, 2H] of the gate and the candidate
    norm: np.ndarray  # [L, 2, H] weight and bias
    inner: np.ndarray  # [L, H + 1, 2H]
    outer: np.ndarray  # [L, 2H + 1, H]


@compiled
def respond(
    slate: np.ndarray,
    uniform: np.ndarray,
    memory: Memory,
    states: np.ndarray,
    items: Items,
    answering: Answering,
    layers: Layers,
    session: Session,
    click: np.ndarray,
    probability: np.ndarray,
) -> None:
    """Draw the clicks of B users on slates [B, S'], S' ≤ S.

    Args:
        slate: [B, S'] int64, -1 = empty.
        uniform: [B, S'] in [0, 1).
        memory: before the slate; what follows it is written into it.
        states: [B, L, H], the states of the layers; written into.
        items: tables.
        answering: weights.
        layers: weights.
        session: weights.
        click: [B, S'] bool, zeros; the clicks are written into it.
        probability: [B, S'], zeros; the probabilities are written into it.

    Raises:
        IndexError: the slate is too wide or has an item outside the catalogue.
    """
    n_users, n_positions = slate.shape
    rows, log_odds = np.empty(n_positions, np.int64), np.empty(n_positions, np.float32)
    for user in range(n_users):
        look_up(slate[user], answering.position.shape[1], items, rows)
        add_session(user, slate[user], rows, memory, items, session, log_odds)
        score(rows, slate[user], memory.hidden[user], items, answering, log_odds)
        draw(
            rows, slate[user], memory.hidden[user], uniform[user], answering, log_odds,
            click[user], probability[user],
        )  # fmt: skip
        advance(rows, slate[user], click[user], memory.hidden[user], states[user], items, layers)
        observe(user, slate[user], rows, click[user], memory, items, session)


@compiled
def score(
    rows: np.ndarray,
    slate: np.ndarray,
    hidden: np.ndarray,
    items: Items,
    answering: Answering,
    log_odds: np.ndarray,
) -> None:
    """Add the network's log-odds [S] for a slate, and those of the clicks expected above."""
    n_expected = _ZERO
    for s in range(rows.shape[0]):
        if slate[s] < 0:
            continue
        x = log_odds[s] + dot(items.readout[rows[s]], hidden)
        x += items.bias[rows[s]] + answering.position[0, s]
        log_odds[s] = x + answering.per_click[0] * n_expected
        n_expected += sigmoid(bound(x, s, answering))


@compiled
def draw(
    rows: np.ndarray,
    slate: np.ndarray,
    hidden: np.ndarray,
    uniform: np.ndarray,
    answering: Answering,
    log_odds: np.ndarray,
    click: np.ndarray,
    probability: np.ndarray,
) -> None:
    """Draw the clicks of a slate [S] position by position, `Feedback.draw`."""
    size = answering.gate.shape[1]
    scale, above = np.empty(size, np.float32), np.zeros(size, np.float32)
    if size:
        linear(hidden, answering.gate, scale)
    for i in range(size):
        scale[i] = _TWO * sigmoid(scale[i])
    for s in range(rows.shape[0]):
        if slate[s] < 0:
            continue
        change = _ZERO
        for i in range(size):
            query = answering.pair[rows[s], i] + answering.position_pair[s, i]
            change += query * scale[i] * above[i]
        probability[s] = sigmoid(bound(log_odds[s] + change, s, answering))
        click[s] = uniform[s] < probability[s]
        if size:
            difference = np.float32(click[s]) - sigmoid(bound(log_odds[s], s, answering))
            for i in range(size):
                key = answering.pair[rows[s], size + i] + answering.position_pair[s, size + i]
                above[i] += difference * key


@compiled
def bound(log_odds: np.float32, s: int, answering: Answering) -> np.float32:
    """Return log-odds bounded by the examination of position `s`."""
    _, looked, missed = answering.position
    return log_odds + looked[s] - softplus(log_odds + missed[s])


@compiled
def advance(
    rows: np.ndarray,
    slate: np.ndarray,
    click: np.ndarray,
    hidden: np.ndarray,
    states: np.ndarray,
    items: Items,
    layers: Layers,
) -> None:
    """Update the states [L, H] and the hidden state [H] of a user by the token of a slate."""
    size, d = hidden.shape[0], items.vector.shape[1]
    mean = np.zeros(2 * d + 1, np.float32)  # of the items clicked, of those shown, any click
    n_shown, n_clicks = _ZERO, _ZERO
    for s in range(rows.shape[0]):
        if slate[s] < 0:
            continue
        n_shown += _ONE
        for i in range(d):
            mean[d + i] += items.vector[rows[s], i]
        if click[s]:
            n_clicks += _ONE
            for i in range(d):
                mean[i] += items.vector[rows[s], i]
    if n_shown == 0:
        return
    for i in range(d):
        mean[i] /= max(n_clicks, _ONE)
        mean[d + i] /= n_shown
    mean[2 * d] = np.float32(n_clicks > 0)
    token, inner = np.empty(size, np.float32), np.empty(2 * size, np.float32)
    cell, normal = np.empty(2 * size, np.float32), np.empty(size, np.float32)
    linear(mean, layers.lift, token)
    for layer in range(states.shape[0]):
        state = states[layer]
        linear(token, layers.cell[layer], cell)
        for i in range(size):
            state[i] += sigmoid(cell[i]) * (cell[size + i] - state[i])
        normalise(state, layers.norm[layer], normal)
        linear(normal, layers.inner[layer], inner)
        for i in range(2 * size):
            inner[i] *= _HALF * np.float32(_ONE + math.erf(inner[i] * _ROOT_HALF))  # GELU
        linear(inner, layers.outer[layer], token)
        for i in range(size):
            token[i] += state[i]
    for i in range(size):
        hidden[i] = token[i]


@compiled
def linear(x: np.ndarray, weight: np.ndarray, result: np.ndarray) -> None:
    """Write (x, 1) [n + 1] · weight [n + 1, m] into `result` [m]."""
    n = x.shape[0]
    for j in range(result.shape[0]):
        result[j] = weight[n, j]
    for k in range(n):
        for j in range(result.shape[0]):
            result[j] += x[k] * weight[k, j]


@compiled
def normalise(x: np.ndarray, norm: np.ndarray, result: np.ndarray) -> None:
    """Write the layer norm of x [n], with weight and bias [2, n], into `result` [n]."""
    n, mean, square = np.float32(x.shape[0]), _ZERO, _ZERO
    for i in range(x.shape[0]):
        mean += x[i]
    mean /= n
    for i in range(x.shape[0]):
        square += (x[i] - mean) * (x[i] - mean)
    scale = _ONE / np.sqrt(square / n + _EPSILON)
    for i in range(x.shape[0]):
        result[i] = (x[i] - mean) * scale * norm[0, i] + norm[1, i]
