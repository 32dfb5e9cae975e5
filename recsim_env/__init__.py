"""Where they answer: simulated users as batched Gymnasium environments.

Importing this package is cheap; its names are loaded when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recsim_env.plugin import install

if TYPE_CHECKING:
    from recsim_env.scenarios import make_env, make_vector_env, make_world
    from recsim_env.single import RecSimEnv
    from recsim_env.vector import RecSimVectorEnv
    from recsim_env.world import Outcome, World

_HOMES = {
    "Outcome": "world",
    "RecSimEnv": "single",
    "RecSimVectorEnv": "vector",
    "World": "world",
    "make_env": "scenarios",
    "make_vector_env": "scenarios",
    "make_world": "scenarios",
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
    if name in _HOMES:
        return getattr(import_module(f"recsim_env.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'recsim_env' has no attribute {name!r}")


install()
