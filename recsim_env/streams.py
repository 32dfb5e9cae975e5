"""Random numbers per user, so that no user's fate depends on who runs beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from responders.errors import check_whole

# SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as signed 64-bit integers; products wrap.
_GOLDEN = -7046029254386353131
_MIX = ((30, -4658895280553007687), (27, -7723592293110705685))
_LAST_SHIFT = 31


def _unsigned_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    for bits, factor in _MIX:
        x = _unsigned_shift(x, bits).bitwise_xor_(x).mul_(factor)
    return _unsigned_shift(x, _LAST_SHIFT).bitwise_xor_(x)


def _wrapped(x: int) -> int:
    """Return `x` as a signed 64-bit integer, wrapped."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


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
        start = _mix(torch.tensor(check_seed(seed) % (1 << 62), device=device) + 1)
        self._position = _mix(start + (user + 1) * _GOLDEN)
        self._steps = torch.arange(1, 4097, device=device) * _GOLDEN

    def uniform(self, n: int, mask: Tensor | None = None) -> Tensor:
        """Return float32 numbers [B, n] in [0, 1).

        Args:
            n: numbers per user, at most 4096.
            mask: [B] bool; the streams of other users do not advance (their numbers mean nothing).
        """
        numbers = self._numbers(self._position, n)
        passed = _wrapped(n * _GOLDEN)
        self._position = self._position + (passed if mask is None else passed * mask)
        return numbers

    def uniform_of(self, rows: Tensor, n: int) -> Tensor:
        """Return the next numbers [len(rows), n] of the users `rows` (int64, each once) alone."""
        position = self._position[rows]
        passed = position + _wrapped(n * _GOLDEN)
        self._position = self._position.index_copy(0, rows, passed)
        return self._numbers(position, n)

    def _numbers(self, position: Tensor, n: int) -> Tensor:
        bits = _mix(position.unsqueeze(1) + self._steps[:n])
        return _unsigned_shift(bits, 40).to(torch.float32) * 2.0**-24
