"""The exception for bad input, and checks that raise it."""

import difflib
from collections.abc import Iterable
from math import isfinite
from numbers import Real
from typing import SupportsIndex


class InputError(ValueError):
    """Bad input: the message says what is wrong and how to fix it.

    The command line prints its message as one line, ``error: …``, and exits with 1.
    """


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean a or b?"`` for names close to `name`, or the list of `known` names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def check_whole(name: str, value: object, least: int) -> int:
    """Return `value` as an int, or raise `InputError` unless it is a whole number ≥ `least`."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or int(value) < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


def check_finite(name: str, value: object) -> float:
    """Return `value` as a float, or raise `InputError` unless it is a finite number."""
    if not isinstance(value, Real) or not isfinite(value):
        raise InputError(f"{name} must be a finite number, not {value!r}")
    return float(value)
