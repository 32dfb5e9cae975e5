"""The exception for bad input, and checks that raise it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Bad input: the message says what is wrong and how to fix it.

    The command line prints its message as one line, ``error: …``, and exits with 1.
    """


def near_matches(name: object, known: Iterable[str]) -> str:
    """Return ``"did you mean a or b?"`` for names close to `name`, or the list of `known` names."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def check_whole(name: str, value: object, least: int) -> int:
    """Return `value` as an int, or raise `InputError` unless it is a whole number ≥ `least`."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or int(value) < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


def check_seed(seed: object) -> int:
    """Return `seed` as an int, or raise `InputError` unless it is a whole number in [0, 2^62)."""
    whole = check_whole("seed", seed, 0)
    if whole >= 1 << 62:  # larger ones would repeat the random numbers of smaller ones
        raise InputError(f"seed must be below 2^62, not {whole}")
    return whole


def check_finite(name: str, value: object) -> float:
    """Return `value` as a float, or raise `InputError` unless it is a finite number."""
    if not isinstance(value, Real) or not isfinite(value):
        raise InputError(f"{name} must be a finite number, not {value!r}")
    return float(value)


def first_fault(error: ValidationError) -> str:
    """Return the first field that Pydantic found wrong, and why."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    return f"field {field}: {first['msg'].replace('Input should be', 'it should be', 1)}"
