"""A random stream per user, so that results do not depend on the number of users simulated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from responders.compiling import are_few
from responders.errors import InputError, check_seed

# SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as signed 64-bit integers; products wrap.
_GOLDEN = -7046029254386353131
_MIX = ((30, -4658895280553007687), (27, -7723592293110705685))
_LAST_SHIFT = 31
_UNIT = 2.0**-24
Bits = TypeVar("Bits", Tensor, np.ndarray)
"""64-bit integers, PyTorch or NumPy: both wrap on overflow and have the same operators."""


def _unsigned_shift(x: Bits, bits: int) -> Bits:
    y = x >> bits
    y &= (1 << (64 - bits)) - 1
    return y


def _mix(x: Bits) -> Bits:
    """Return the mixed bits without the last shift, which does not change the upper 31 bits."""
    for bits, factor in _MIX:
        y = _unsigned_shift(x, bits)
        y ^= x
        y *= factor
        x = y
    return x


def _mix_all(x: Tensor) -> Tensor:
    x = _mix(x)
    return _unsigned_shift(x, _LAST_SHIFT).bitwise_xor_(x)


class UserStreams:
    """One counter-based generator (SplitMix64) per user, all advanced at once.

    User number i draws the same numbers for any number of users and on any device.

    Args:
        num_users: B.
        seed: of all streams, 0 or more; or one for each user, who then draws what the first user of
            a world with that seed draws, whatever `first_user` is.
        first_user: number of the first user.
        device: of the numbers.
    """

    def __init__(
        self,
        num_users: int,
        seed: int | Sequence[int],
        first_user: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        user = torch.arange(first_user, first_user + num_users, device=device)
        if isinstance(seed, Sequence) and not isinstance(seed, str):
            if len(seed) != num_users:
                raise InputError(f"{len(seed)} seeds were given for {num_users} users")
            seed, user = [check_seed(each) for each in seed], torch.zeros_like(user)
        else:
            seed = check_seed(seed)
        start = _mix_all(torch.tensor(seed, device=device) + 1)
        self._position = _mix_all(start + (user + 1) * _GOLDEN)
        self._steps = torch.arange(1, 4097, device=device) * _GOLDEN
        self._by_numpy = self._position.device.type == "cpu"  # the same numbers, computed faster

    def uniform(self, n: int, mask: Tensor | None = None) -> Tensor:
        """Return float32 numbers [B, n] in [0, 1).

        Args:
            n: numbers per user, at most 4096.
            mask: [B] bool; the streams of other users do not advance (ignore their numbers).
        """
        if are_few(self._position):
            from recsim_env.compiled import draw  # imports numba

            return draw(self._position, n, mask)
        position, steps = self._position.unsqueeze(1), self._steps[:n]
        advance = self._steps[n - 1]
        self._position = self._position + (advance if mask is None else advance * mask)
        if self._by_numpy:
            return torch.from_numpy(_unit(position.numpy() + steps.numpy()))
        return _numbers(position + steps).to(torch.float32).mul_(_UNIT)


def _unit(position: np.ndarray) -> np.ndarray:
    """Return float32 numbers in [0, 1)."""
    return _numbers(position).astype(np.float32) * np.float32(_UNIT)


def _numbers(position: Bits) -> Bits:
    """Return integers of 24 bits, the precision of float32."""
    return _unsigned_shift(_mix(position), 40)
