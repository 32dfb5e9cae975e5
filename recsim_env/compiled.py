"""What a world computes around its responder, in compiled loops for few users.

Each function does what its caller does with PyTorch for many users; see `responders.compiling`.
Tensors are on the CPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from responders.compiling import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1, _FACTOR_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _40 = np.uint64(30), np.uint64(27), np.uint64(40)
_UNIT = np.float32(2.0**-24)


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


def count(slate: Tensor, click: Tensor, *before: Tensor) -> list[Tensor]:
    """Return `before` after users answered `slate` [B, S] with `click` [B, S].

    Args:
        slate: what they were shown.
        click: their answers.
        before: of `Episodes`: step, visit_step, visit_clicks, streak, slates, clicks.
    """
    after = [value.numpy().copy() for value in before]
    _count(np.ascontiguousarray(slate.numpy()), np.ascontiguousarray(click.numpy()), *after)
    return [torch.from_numpy(value) for value in after]


@compiled
def _count(
    slate: np.ndarray,
    click: np.ndarray,
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
