"""The optional package implicit."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from responders import InputError


def import_implicit(name: str) -> Any:
    """Return the module `implicit.cpu.<name>`, or raise `InputError` if it is not installed."""
    try:
        return import_module(f"implicit.cpu.{name}")
    except ImportError as error:
        raise InputError(
            f"{name} needs the package implicit: pip install 'recsim-env[collaborative]'"
        ) from error
