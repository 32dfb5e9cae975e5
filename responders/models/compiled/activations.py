"""The functions of a GRU's gates, for loops that use vector instructions."""

from __future__ import annotations

import math

import numpy as np

from responders.compiling import compiled

# numba would compute in float64 with Python's numbers.
_ONE, _TWO, _HALF = np.float32(1), np.float32(2), np.float32(0.5)
_LOWEST, _HIGHEST = np.float32(-87), np.float32(88)
_PER_LOG_2 = np.float32(1 / math.log(2))
_LOG_2_HIGH, _LOG_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C0, _C1, _C2, _C3, _C4, _C5 = (
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)


@compiled
def exponential(x: np.float32) -> np.float32:
    """Return e^x to 1.1e-7 of its value, for x between -87 and 88.

    The polynomial is that of Cephes' `expf` (Moshier, 1992). Unlike a call of the C library, it is
    computed for many numbers at a time in a loop.
    """
    x = min(max(x, _LOWEST), _HIGHEST)
    n = np.floor(x * _PER_LOG_2 + _HALF)
    r = x - n * _LOG_2_HIGH - n * _LOG_2_LOW  # e^x = 2^n · e^r
    p = ((((_C0 * r + _C1) * r + _C2) * r + _C3) * r + _C4) * r + _C5
    power = np.int32((np.int32(n) + _BIAS) << _MANTISSA).view(np.float32)
    return (p * r * r + r + _ONE) * power


@compiled
def sigmoid(x: np.float32) -> np.float32:
    """Return 1 / (1 + e^-x)."""
    return _ONE / (_ONE + exponential(-x))


@compiled
def tanh(x: np.float32) -> np.float32:
    """Return the hyperbolic tangent to 1e-7."""
    return _TWO / (_ONE + exponential(-_TWO * x)) - _ONE
