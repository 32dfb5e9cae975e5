"""Policies by name, from your own files and packages, and from folders of saved ones."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from uuid import uuid4

from agents.from_log import LogPolicy
from agents.loading import load_policy
from agents.policy import Policy
from agents.registry import known_policies
from recsim_env.world import World
from responders import InputError
from responders.config import Config
from responders.errors import near_matches

P = TypeVar("P", bound=Policy)

PolicySource = str | Path | type[Policy] | Policy
"""What `find_policy` takes."""


@dataclass(frozen=True)
class Entry:
    """A policy that takes part in a study.

    Args:
        name: in tables, unique in a study.
        given: what `find_policy` was given.
        source: the class; a policy or the folder of one, which runs as it is, without training.
        fingerprint: of the files that define its class and the policies it inherits from, or of
            its folder; of an object, a new one each time.
        config: of a class; None = its defaults.
    """

    name: str
    given: PolicySource
    source: type[Policy] | Policy | Path
    fingerprint: str
    config: Config | None = None

    def make(self, world: World, seed: int) -> Policy:
        """Return the policy for `world`, untrained unless it was given as trained.

        Args:
            world: where it will run.
            seed: of a new policy.

        Raises:
            InputError: it cannot run there.
        """
        if isinstance(self.source, type):
            settings: dict[str, Any] = {} if self.config is None else {"config": self.config}
            try:
                return self.source(world, seed=seed, **settings)
            except TypeError as error:
                raise InputError(
                    f"policy {self.name} cannot be made ({error}): its class is called with a "
                    "world and seed=…"
                ) from error
        return self.source if isinstance(self.source, Policy) else load_policy(self.source, world)

    @property
    def learns_by_acting(self) -> bool:
        """Whether it is a class whose policies learn, and not from a log."""
        kind = self.source
        if not isinstance(kind, type) or issubclass(kind, LogPolicy):
            return False
        return (kind.learn, kind.train) != (Policy.learn, Policy.train)

    @property
    def is_trained(self) -> bool:
        """Whether the policy was given as an object or a folder."""
        return not isinstance(self.source, type)


def find_policies(sources: Sequence[PolicySource]) -> list[Entry]:
    """Return the policies that `sources` name.

    Args:
        sources: registered names, `FILE.py:Class`, `package.module:Class`, folders of saved
            policies, classes, or policies.

    Raises:
        InputError: something is missing or not a policy, or two have the same name.
    """
    entries = [find_policy(source) for source in sources]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{names.count(name)} policies have the name {name}: rename them")
    return entries


def find_policy(source: PolicySource) -> Entry:
    """Return the policy that `source` names; see `find_policies`."""
    if isinstance(source, Policy):
        return Entry(type(source).__name__, source, source, uuid4().hex)
    if isinstance(source, type):
        return _of_class(source.__name__, source, source)
    text, known = str(source), known_policies()
    if text in known:
        return _of_class(text, source, _import(known[text], text))
    place, colon, name = text.rpartition(":")
    if colon and name.isidentifier():
        is_file = place.endswith(".py")
        module = _module_of(Path(place)) if is_file else None
        kind = _import(text, text) if module is None else _attribute(module, name, place)
        return _of_class(name, source, kind)
    path = Path(text).expanduser()
    if path.is_dir():
        return Entry(path.resolve().name, source, path, fingerprint(path))
    raise InputError(
        f"policy {text!r} is unknown; {near_matches(text, known)}; otherwise give FILE.py:Class, "
        "package.module:Class, or the folder of a saved policy"
    )


def find_class(source: PolicySource, base: type[P], reason: str) -> type[P]:
    """Return the class that `source` names; raise `InputError` with `reason` if it is no `base`."""
    kind = find_policy(source).source
    if not isinstance(kind, type) or not issubclass(kind, base):
        raise InputError(f"policy {source} {reason}")
    return kind


def _of_class(name: str, given: PolicySource, kind: Any) -> Entry:
    if not isinstance(kind, type) or not issubclass(kind, Policy):
        raise InputError(f"{given} is not a subclass of agents.Policy")
    files = [_file_of(each) for each in kind.__mro__ if issubclass(each, Policy)]
    digests = [uuid4().hex if file is None else fingerprint(file) for file in files]
    return Entry(name, given, kind, hashlib.sha256("".join(digests).encode()).hexdigest()[:16])


def _file_of(kind: type) -> Path | None:
    """Return the file that defines a class; None for one of an interactive session."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return None if file is None else Path(file)


def _import(path: str, what: str) -> Any:
    """Return the object at `module:attribute`."""
    module, _, name = path.partition(":")
    try:
        return _attribute(import_module(module), name, module)
    except InputError:
        raise
    except Exception as error:  # whatever the module raises when it is imported
        raise InputError(f"policy {what}: {module} cannot be imported ({_short(error)})") from error


def _module_of(path: Path) -> ModuleType:
    """Return the module in the file `path`, imported once under the file's name."""
    if not path.is_file():
        raise InputError(f"there is no file {path} to take a policy from")
    name = f"{path.stem}_{fingerprint(path)}"  # a file that was changed is imported again
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises
        del sys.modules[name]
        raise InputError(f"{path} cannot be imported ({_short(error)})") from error
    return module


def _attribute(module: ModuleType, name: str, place: str) -> Any:
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if _is_own(value, module)]
        raise InputError(
            f"{place} has no class {name}; "
            + (near_matches(name, classes) if classes else "it defines no policy")
        )
    return getattr(module, name)


def _is_own(value: Any, module: ModuleType) -> bool:
    is_policy = isinstance(value, type) and issubclass(value, Policy)
    return is_policy and value.__module__ == module.__name__


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def fingerprint(path: Path) -> str:
    """Return a hash of the content of a file, or of the files in a folder."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
