"""Random numbers per user, so that no user's fate depends on who runs beside them."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from responders.errors import check_whole

# SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as signed 64-bit integers; products wrap.
_GOLDEN = -7046029254386353131
_MIX = ((30, -4658895280553007687), (27, -7723592293110705685))
_LAST_SHIFT = 31
_UNIT = 2.0**-24
_AHEAD = 2
"""Numbers made along with those of a step, for the users who start anew after it."""

Bits = TypeVar("Bits", Tensor, np.ndarray)
"""64-bit integers of either library: both wrap and know the same operators."""


def _unsigned_shift(x: Bits, bits: int) -> Bits:
    y = x >> bits
    y &= (1 << (64 - bits)) - 1
    return y


def _mix(x: Bits) -> Bits:
    """Return the bits mixed, but for SplitMix64's last shift, which leaves the upper 31 alone."""
    for bits, factor in _MIX:
        y = _unsigned_shift(x, bits)
        y ^= x
        y *= factor
        x = y
    return x


def _mix_all(x: Tensor) -> Tensor:
    x = _mix(x)
    return _unsigned_shift(x, _LAST_SHIFT).bitwise_xor_(x)


def check_seed(seed: object) -> int:
    """Return `seed` as an int, or raise `InputError` unless it is a whole number ≥ 0."""
    return check_whole("seed", seed, 0)


class UserStreams:
    """One counter-based generator (SplitMix64) per user, all advanced at once.

    User i of `first_user`, `first_user` + 1, … draws the same numbers however many run beside it
    and on whatever device.

    Args:
        num_users: B.
        seed: of all streams, 0 or more.
        first_user: number of the first user.
        device: where the numbers are made.
    """

    def __init__(
        self, num_users: int, seed: int, first_user: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        user = torch.arange(first_user, first_user + num_users, device=device)
        start = _mix_all(torch.tensor(check_seed(seed) % (1 << 62), device=device) + 1)
        self._position = _mix_all(start + (user + 1) * _GOLDEN)
        self._steps = torch.arange(1, 4097, device=device) * _GOLDEN
        self._by_numpy = self._position.device.type == "cpu"  # the same numbers in less time
        self._ahead: np.ndarray | None = None  # [B, _AHEAD], what comes after those drawn last

    def uniform(self, n: int, mask: Tensor | None = None) -> Tensor:
        """Return float32 numbers [B, n] in [0, 1).

        Args:
            n: numbers per user, at most 4094.
            mask: [B] bool; the streams of other users do not advance (their numbers mean nothing).
        """
        position, steps = self._position.unsqueeze(1), self._steps[:n]
        passed = self._steps[n - 1]
        self._position = self._position + (passed if mask is None else passed * mask)
        if not self._by_numpy:
            return _numbers(position + steps).to(torch.float32).mul_(_UNIT)
        if mask is not None:
            self._ahead = None
            return torch.from_numpy(_unit(position.numpy() + steps.numpy()))
        numbers = _unit(position.numpy() + self._steps[: n + _AHEAD].numpy())
        self._ahead = numbers[:, n:]
        return torch.from_numpy(numbers[:, :n])

    def uniform_of(self, rows: np.ndarray, n: int) -> Tensor:
        """Return the next numbers [len(rows), n] of the users `rows` (int64, each once) alone.

        For streams on the CPU.
        """
        position, steps = self._position.numpy(), self._steps.numpy()
        now, ahead = position[rows], self._ahead
        position[rows], self._ahead = now + steps[n - 1], None
        if ahead is not None and n <= _AHEAD:
            return torch.from_numpy(ahead[rows, :n])
        return torch.from_numpy(_unit(now[:, None] + steps[:n]))


def _unit(position: np.ndarray) -> np.ndarray:
    """Return float32 numbers in [0, 1)."""
    return _numbers(position).astype(np.float32) * np.float32(_UNIT)


def _numbers(position: Bits) -> Bits:
    """Return whole numbers of 24 bits, as many as float32 tells apart."""
    return _unsigned_shift(_mix(position), 40)
