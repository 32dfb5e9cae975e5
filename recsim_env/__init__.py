"""Simulated users as batched Gymnasium environments, which are registered on import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

from recsim_env.registry import ENVIRONMENTS
from responders.installation import check_installation

if TYPE_CHECKING:
    from recsim_env.make import make_env, make_vector_env, make_world
    from recsim_env.outcome import Outcome
    from recsim_env.single import RecSimEnv
    from recsim_env.vector import RecSimVectorEnv
    from recsim_env.world import World

_MODULES = {
    "Outcome": "recsim_env.outcome",
    "RecSimEnv": "recsim_env.single",
    "RecSimVectorEnv": "recsim_env.vector",
    "World": "recsim_env.world",
    "make_env": "recsim_env.make",
    "make_vector_env": "recsim_env.make",
    "make_world": "recsim_env.make",
}

__all__ = [
    "Outcome",
    "RecSimEnv",
    "RecSimVectorEnv",
    "World",
    "make_env",
    "make_vector_env",
    "make_world",
]


def __getattr__(name: str) -> Any:
    """Import members on first use, so that importing the package does not import PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'recsim_env' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


check_installation("responders")
for _id, _scenario in ENVIRONMENTS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(
            id=_id,
            entry_point="recsim_env.make:make_env",
            vector_entry_point="recsim_env.make:make_vector_env",
            kwargs={"scenario": _scenario, "users": "synthetic unless a responder is given"},
        )
