"""Imports of packages that import gym, Gymnasium's predecessor, if it is installed."""

from __future__ import annotations

import contextlib
import io
import warnings
from importlib import import_module
from types import ModuleType


def quiet_import(name: str) -> ModuleType:
    """Import a package; the notice of gym that it is not maintained is dropped."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)
