"""The optional package implicit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from threadpoolctl import threadpool_limits

from responders import InputError


def import_implicit(name: str) -> Any:
    """Return the module `implicit.cpu.<name>`, or raise `InputError` if it is not installed."""
    try:
        return import_module(f"implicit.cpu.{name}")
    except ImportError as error:
        raise InputError(
            f"{name} needs the package implicit: pip install 'recsim-env[collaborative]'"
        ) from error


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let linear algebra use one thread in the block, without which implicit warns of slowness."""
    with threadpool_limits(1, "blas"):
        yield
