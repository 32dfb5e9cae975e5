"""Building responders by name: for a log, or from the description in a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch

from responders.config import Config, make_config
from responders.device import seeded
from responders.errors import InputError
from responders.log.session_log import SessionLog
from responders.models.base import LogShape, Responder
from responders.models.parts.items import given_item_vectors
from responders.models.registry import RESPONDERS
from responders.registry import load


def responder_class(name: str) -> type[Responder]:
    """Return the class of the responder `name`, a key of `RESPONDERS`, or raise `InputError`."""
    return load(RESPONDERS, name, "responder")


def build_responder(
    name: str, log: SessionLog, sessions: np.ndarray, config: Config | None = None, seed: int = 0
) -> tuple[Responder, dict[str, Any]]:
    """Build the responder `name` for `log` and fit in closed form what can be fitted so.

    Args:
        name: a key of `RESPONDERS`.
        log: the log.
        sessions: its training sessions.
        config: of the responder's `config_class`; None = the defaults.
        seed: of its initial weights.

    Returns:
        the responder, and the description from which `rebuild_responder` makes an untrained one.

    Raises:
        InputError: an unknown name, or a responder that cannot learn from this log.
    """
    kind = responder_class(name)
    if kind.reads_history and int(log.session_length.max()) < 2:
        raise InputError(
            f"every session of the log has one slate: {name} has no history to learn from; use a "
            "responder without history, such as pbm or item_ctr"
        )
    shape, config = LogShape.of(log), kind.config_class() if config is None else config
    options, given = asdict(config), None
    vectors: dict[str, Any] = {}
    if "embedding" in options:
        size = options["embedding_size"]
        given = given_item_vectors(log, sessions, options["embedding"], size, seed)
        vectors["item_vectors"] = None if given is None else torch.from_numpy(np.array(given))
    with seeded(seed):
        responder = kind(shape, config, **vectors)
    responder.initialise(log, sessions)
    return responder, {
        "name": name,
        "options": options,
        "shape": vars(shape),
        "item_features": None if given is None else given.shape[1],
    }


def rebuild_responder(description: dict[str, Any]) -> Responder:
    """Build the responder of a description, its weights still to be loaded.

    Raises:
        InputError: the name or an option is unknown, or the responder has no item features.
    """
    kind = responder_class(description["name"])
    shape = LogShape(**description["shape"])
    vectors = {}
    if description["item_features"] is not None:
        if "embedding" not in {setting.name for setting in fields(kind.config_class)}:
            raise InputError(f"{description['name']} has no item_features: the card is damaged")
        vectors["item_vectors"] = torch.zeros(shape.n_items, description["item_features"])
    config = make_config(kind.config_class, description["options"], description["name"])
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced by saved ones
        return kind(shape, config, **vectors).float()  # whatever PyTorch's default dtype is
