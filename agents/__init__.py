"""Policies that recommend slates to simulated and to real users."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.loading import load_policy
    from agents.policy import Policy
    from agents.transition import Transition

_MODULES = {
    "Policy": "agents.policy",
    "Transition": "agents.transition",
    "load_policy": "agents.loading",
}

__all__ = ["Policy", "Transition", "load_policy"]


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use, so that the registry is read without PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
