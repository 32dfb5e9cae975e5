"""Session logs, and models of users (responders) that are learned from them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from responders.errors import InputError

if TYPE_CHECKING:
    from responders.behaviour.leaving import Hazard
    from responders.behaviour.returns import Returns
    from responders.log.catalogue import EMPTY, Catalogue, Users
    from responders.log.session_log import SessionLog
    from responders.models.base import Responder
    from responders.models.registry import RESPONDERS
    from responders.training.checkpoint import load_responder
    from responders.training.fit import fit

_MODULES = {
    "EMPTY": "responders.log.catalogue",
    "RESPONDERS": "responders.models.registry",
    "Catalogue": "responders.log.catalogue",
    "Hazard": "responders.behaviour.leaving",
    "Responder": "responders.models.base",
    "Returns": "responders.behaviour.returns",
    "SessionLog": "responders.log.session_log",
    "Users": "responders.log.catalogue",
    "fit": "responders.training.fit",
    "load_responder": "responders.training.checkpoint",
}

__all__ = [
    "EMPTY",
    "RESPONDERS",
    "Catalogue",
    "Hazard",
    "InputError",
    "Responder",
    "Returns",
    "SessionLog",
    "Users",
    "fit",
    "load_responder",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use, so that the command line does not import PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'responders' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
