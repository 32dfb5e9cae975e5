"""What a world computes around its responder, in compiled loops for few users.

Each function does what its caller does with PyTorch for many users; see `responders.compiling`.
Tensors are on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsim_env.episodes import Episodes
from responders.behaviour.leaving import Hazard
from responders.compiling import compiled
from responders.models.base import Response

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1, _FACTOR_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _40 = np.uint64(30), np.uint64(27), np.uint64(40)
_UNIT = np.float32(2.0**-24)
_0, _1, _ALMOST_0 = np.float32(0), np.float32(1), np.float32(1e-7)
_COUNTS = "step", "visit_step", "visit_clicks", "streak", "slates", "clicks"


def draw(position: Tensor, n: int, mask: Tensor | None) -> Tensor:
    """Return float32 numbers [B, n] in [0, 1) and advance `position` [B]; see `UserStreams`."""
    numbers = np.empty((len(position), n), np.float32)
    advances = np.ones(len(position), np.bool_) if mask is None else mask.numpy()
    _draw(position.numpy().view(np.uint64), advances, numbers)
    return torch.from_numpy(numbers)


@compiled
def _draw(position: np.ndarray, advances: np.ndarray, numbers: np.ndarray) -> None:
    for user in range(numbers.shape[0]):
        x = position[user]
        for i in range(numbers.shape[1]):
            x += _GOLDEN
            y = (x ^ (x >> _30)) * _FACTOR_1
            y = (y ^ (y >> _27)) * _FACTOR_2
            numbers[user, i] = np.float32(y >> _40) * _UNIT
        if advances[user]:
            position[user] = x


def blank(slate: Tensor) -> tuple[Tensor, Tensor]:
    """Return slates [B, S] with repeated items set to -1, and the number of them [B] int64."""
    shown, duplicates = slate.numpy().copy(), np.zeros(len(slate), np.int64)
    _blank(shown, duplicates)
    return torch.from_numpy(shown), torch.from_numpy(duplicates)


@compiled
def _blank(shown: np.ndarray, duplicates: np.ndarray) -> None:
    for user in range(shown.shape[0]):
        for s in range(1, shown.shape[1]):
            is_copy = False
            for above in range(s):
                is_copy |= shown[user, above] == shown[user, s]
            if is_copy and shown[user, s] >= 0:
                shown[user, s] = -1
                duplicates[user] += 1


class Leaving(NamedTuple):
    """When users leave, see `Hazard`."""

    by_streak: np.ndarray  # [K] float32
    weights: np.ndarray  # [3] float32, or [0]
    min_slates: int
    max_slates: int

    @classmethod
    def of(cls, hazard: Hazard) -> Leaving:
        """Return the numbers of a hazard."""
        by_streak, weights = hazard.tables()
        return cls(
            by_streak.numpy(),
            np.zeros(0, np.float32) if weights is None else weights.numpy(),
            hazard.min_slates,
            2**62 if hazard.max_slates is None else hazard.max_slates,
        )


def answer(
    episodes: Episodes, slate: Tensor, response: Response, uniform: Tensor, leaving: Leaving
) -> tuple[Episodes, Tensor, Tensor]:
    """Return the episodes after an answer, the chance to leave [B], and who leaves [B] bool.

    Args:
        episodes: of the users.
        slate: [B, S], what they were shown.
        response: their answers.
        uniform: [B, n] float32 in [0, 1); number S of each user decides whether they leave.
        leaving: when users leave.
    """
    after = [getattr(episodes, name).numpy().copy() for name in _COUNTS]
    chance, left = np.empty(len(slate), np.float32), np.empty(len(slate), np.bool_)
    shown, click = slate.contiguous().numpy(), response.click.contiguous().numpy()
    _answer(shown, click, uniform.numpy(), leaving, chance, left, *after)
    counts = dict(zip(_COUNTS, map(torch.from_numpy, after), strict=True))
    now = replace(episodes, **counts, memory=response.state)
    return now, torch.from_numpy(chance), torch.from_numpy(left)


@compiled
def _answer(
    slate: np.ndarray,
    click: np.ndarray,
    uniform: np.ndarray,
    leaving: Leaving,
    chance: np.ndarray,
    left: np.ndarray,
    step: np.ndarray,
    visit_step: np.ndarray,
    visit_clicks: np.ndarray,
    streak: np.ndarray,
    slates: np.ndarray,
    clicks: np.ndarray,
) -> None:
    last = slates.shape[1] - 1
    for user in range(slate.shape[0]):
        n_clicks = 0
        for s in range(slate.shape[1]):
            n_clicks += click[user, s]
            for h in range(last):
                slates[user, h, s] = slates[user, h + 1, s]
                clicks[user, h, s] = clicks[user, h + 1, s]
            slates[user, last, s] = slate[user, s]
            clicks[user, last, s] = click[user, s]
        step[user] += 1
        visit_step[user] += 1
        visit_clicks[user] += n_clicks
        streak[user] = 0 if n_clicks else streak[user] + 1
        weights = leaving.weights
        p = leaving.by_streak[min(streak[user], leaving.by_streak.shape[0] - 1)]
        n_slates = np.float32(visit_step[user])
        if weights.shape[0]:
            p = min(max(p, _ALMOST_0), _1 - _ALMOST_0)
            odds = math.log(p / (_1 - p)) + weights[0] * math.log1p(n_slates)
            odds += weights[1] * np.float32(n_clicks)
            odds += weights[2] * np.float32(visit_clicks[user]) / max(n_slates, _1)
            p = _1 / (_1 + math.exp(-odds))
        if visit_step[user] < leaving.min_slates:
            p = _0
        if visit_step[user] >= leaving.max_slates:
            p = _1
        chance[user] = p
        left[user] = uniform[user, slate.shape[1]] < p
