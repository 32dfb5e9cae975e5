"""Looking up what a registry names.

A registry is a dictionary from a name to "package.module:Object". It can be read without importing
what it names, so that `--help` and error messages do not wait for PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from responders.errors import InputError, near_matches


def load(registry: Mapping[str, str], name: str, what: str) -> Any:
    """Import and return the object called `name` in `registry`.

    Args:
        registry: from names to "package.module:Object".
        name: the name to look up.
        what: what the registry holds, for the error message, such as "responder".

    Raises:
        InputError: the registry has no such name; the message lists near matches.
    """
    if not isinstance(name, str) or name not in registry:
        raise InputError(f"{what} {name!r} is unknown; {near_matches(str(name), registry)}")
    module, _, attribute = registry[name].partition(":")
    return getattr(import_module(module), attribute)
