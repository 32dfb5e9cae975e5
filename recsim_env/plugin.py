"""Registers the environments with Gymnasium, without any import of ours by the user.

Gymnasium 1.0 dropped plugin entry points. So the distribution installs a `.pth` file that runs
`install` when Python starts: it registers the environments as soon as `gymnasium.envs` is
imported. Nothing heavy is imported here, and nothing happens where Gymnasium is not used.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_TARGET = "gymnasium.envs"

ENVIRONMENTS = {
    "RecSim-v0": "any",
    "RecSim-ContentWise-v0": "contentwise",
    "RecSim-RL4RS-v0": "rl4rs",
}
"""Environment ids and the scenario (see `recsim_env.scenarios`) that each one makes."""

USERS = "synthetic unless a responder is given"
"""What `env.spec` says of the users."""


def register_envs() -> None:
    """Register every environment with Gymnasium; those registered already are left alone."""
    from gymnasium.envs.registration import register, registry

    for env_id, scenario in ENVIRONMENTS.items():
        if env_id not in registry:
            register(
                id=env_id,
                entry_point="recsim_env.scenarios:make_env",
                vector_entry_point="recsim_env.scenarios:make_vector_env",
                kwargs={"scenario": scenario, "users": USERS},
            )


class _Finder:
    """Registers the environments right after `gymnasium.envs` has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                register_envs()

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Register now where Gymnasium is imported already, else as soon as it is."""
    if _TARGET in sys.modules:
        register_envs()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
