"""Loops compiled to machine code by numba, for few users.

For one user a step is hundreds of operators on a few dozen numbers each, and PyTorch needs some
microseconds for each operator, whatever its size: more than a millisecond for arithmetic that takes
twenty microseconds. Compiled, the same arithmetic is one loop. Many users, training and GPUs use
PyTorch.

numba is optional (`pip install recsim-env[fast]`) and is imported at the first step of few users.
It compiles a function when that is first called and keeps the result on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor

FEW_USERS = 64
"""Up to this number of users, compiled loops are used where there are any."""


@cache
def can_compile() -> bool:
    """Return whether numba is installed, fits the installed NumPy, and is not turned off."""
    try:
        numba: Any = import_module("numba")
    except ImportError:
        return False
    return not numba.config.DISABLE_JIT


def are_few(users: Tensor) -> bool:
    """Return whether compiled loops are to be used for B users; `users` is any tensor [B, ...]."""
    return (
        users.shape[0] <= FEW_USERS
        and users.device.type == "cpu"
        and not torch.compiler.is_compiling()  # torch.compile cannot look into these loops
        and can_compile()
    )


F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Decorate a function of NumPy arrays and numbers so that numba compiles it."""
    numba: Any = import_module("numba")
    options = {
        # Sums may be reordered, so that loops use vector instructions; infinity and NaN stay exact.
        "fastmath": {"reassoc", "contract", "arcp", "nsz"},
        "error_model": "numpy",
    }
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder that the result can be kept in
        return numba.njit(**options)(function)
