"""Look up names in registries of "package.module:Name" strings, imported when first used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from responders.errors import InputError, near_matches


def load(registry: Mapping[str, str], name: str, what: str) -> Any:
    """Return the object that `registry` holds under `name`.

    Args:
        registry: "package.module:Name" strings by name.
        name: the key to look up.
        what: what the registry holds, for the error message, such as "source".

    Raises:
        InputError: `name` is not in the registry.
    """
    if name not in registry:
        raise InputError(f"{what} {name!r} is unknown; {near_matches(name, registry)}")
    module, attribute = registry[name].split(":")
    return getattr(import_module(module), attribute)
