"""The responders by name, and how one is built for a log."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from responders.errors import InputError, near_matches
from responders.log.session_log import SessionLog
from responders.models.adversarial import AdvNCM
from responders.models.base import LogShape, Responder
from responders.models.chain import CCM, DBN, DCM, UBM, Cascade
from responders.models.counting import PBM, ItemCTR, PositionCTR
from responders.models.linear import MF, LogisticRegression
from responders.models.parts.items import item_features
from responders.models.random_access import RANCM
from responders.models.recurrent import HierarchicalGRU, SessionGRU, SlateGRU
from responders.models.scot import SCOT
from responders.models.session_attention import SessionTransformer
from responders.models.slate_attention import SlateTransformer, TransformerGRU

RESPONDERS: dict[str, type[Responder]] = {
    "item_ctr": ItemCTR,
    "position_ctr": PositionCTR,
    "pbm": PBM,
    "cascade": Cascade,
    "dcm": DCM,
    "ubm": UBM,
    "dbn": DBN,
    "ccm": CCM,
    "mf": MF,
    "logistic_regression": LogisticRegression,
    "slate_gru": SlateGRU,
    "session_gru": SessionGRU,
    "hierarchical_gru": HierarchicalGRU,
    "slate_transformer": SlateTransformer,
    "session_transformer": SessionTransformer,
    "transformer_gru": TransformerGRU,
    "scot": SCOT,
    "adv_ncm": AdvNCM,
    "rancm": RANCM,
}
"""Everything that `recsim train` can train and a checkpoint can hold."""


def responder_class(name: str) -> type[Responder]:
    """Return the class of a trainable responder, or raise `InputError` with the near matches."""
    if name not in RESPONDERS:
        raise InputError(f"responder {name!r} is unknown; {near_matches(name, RESPONDERS)}")
    return RESPONDERS[name]


def default_options(kind: type[Responder]) -> dict[str, Any]:
    """Return the options of a responder with their defaults: its keyword-only arguments.

    Where a class passes further ones on (`**options`), those of its base follow.
    """
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
            found = own | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found


def build(
    name: str, log: SessionLog, sessions: np.ndarray, options: dict[str, Any], seed: int = 0
) -> tuple[Responder, dict[str, Any]]:
    """Build the responder `name` for `log`, fitted in closed form as far as that goes.

    Args:
        name: a key of `RESPONDERS`.
        log: the log.
        sessions: its training sessions.
        options: keyword arguments of the responder's class, see `default_options`.
        seed: of its initial weights.

    Returns:
        the responder and its description for `rebuild`.

    Raises:
        InputError: an unknown name, or a responder that this log cannot train.
    """
    kind = responder_class(name)
    if kind.reads_history and int(log.session_length.max()) < 2:
        raise InputError(
            f"every session of the log has one slate: {name} has no history to learn from; use a "
            "responder without history, such as pbm or item_ctr"
        )
    shape = LogShape.of(log)
    full = default_options(kind) | options
    extra, fixed = {}, None
    if "embedding" in full:
        fixed = item_features(log, sessions, full["embedding"], full["embedding_size"], seed)
        extra["item_features"] = None if fixed is None else torch.from_numpy(np.array(fixed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        responder = kind(shape, **extra, **full)
    responder.initialise(log, sessions)
    return responder, {
        "name": name,
        "options": full,
        "shape": vars(shape),
        "item_features": None if fixed is None else fixed.shape[1],
    }


def rebuild(description: dict[str, Any]) -> Responder:
    """Build the responder that `build` described, its weights still to be loaded."""
    kind = RESPONDERS[description["name"]]
    shape = LogShape(**description["shape"])
    extra = {}
    if description["item_features"] is not None:
        extra["item_features"] = torch.zeros(shape.n_items, description["item_features"])
    with torch.random.fork_rng(devices=[]):  # weights drawn here are replaced by the saved ones
        return kind(shape, **extra, **description["options"])
