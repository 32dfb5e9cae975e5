"""Loads the parts of a world: responders, ensembles, new items, populations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from recsim_env.population import cold
from responders import Catalogue, InputError, SessionLog
from responders.behaviour.leaving import Hazard
from responders.behaviour.returns import Returns
from responders.behaviour.support import fit_support
from responders.errors import near_matches
from responders.files import read_json
from responders.interpretation.saving import steering
from responders.known_truth.logs import first_slates
from responders.known_truth.presets import TruthConfig
from responders.known_truth.world import KnownTruth, truth_of
from responders.log.split import make_split, visible_log
from responders.models.ensemble import Ensemble
from responders.models.steered import Steered, has_hidden
from responders.training.checkpoint import Checkpoint, check_catalogue, load_responder
from responders.training.initial_sessions import (
    HELD_OUT,
    SLATES,
    make_initial_sessions,
    select_initial,
    unseen_sessions,
)

Source = str | Path | Checkpoint | TruthConfig

_USERS, _FEWEST_USERS = 1000, 200  # of a world made from its parameters
_MAX_PAIRS = 20_000_000  # of users and items: bounds the time to make a world

BY_ALL = "users held out by every member"
_HELD_OUT = (HELD_OUT, BY_ALL)  # the second, if a member is an ensemble itself


def open_responder(source: Source | Sequence[Source]) -> Checkpoint:
    """Return the checkpoint at `source`.

    Args:
        source: a responder written by `recsim train`; a synthetic log, to simulate its true users;
            the parameters of a known-truth world, to simulate new ones; a loaded checkpoint; or
            several of these, for an ensemble.

    Raises:
        InputError: there is nothing usable at `source`.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, TruthConfig):
        return _new_users(source)
    if not isinstance(source, (str, Path)):
        if not isinstance(source, Sequence):
            raise InputError(f"a responder is a folder, or several in a list, not {source!r}")
        return _ensemble([open_responder(each) for each in source])
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"there is no responder at {path}: train one with `recsim train`")
    has_card = (path / "card.json").exists()
    if not has_card or read_json(path / "card.json", "responder").get("kind") != "session log":
        return load_responder(path)
    log = SessionLog.load(path)
    truth = truth_of(log)
    if truth is None:
        raise InputError(
            f"{path} is a log of real users, which cannot answer new slates: train a responder on "
            f"it with `recsim train {path} --responder session_gru --out DIR`"
        )
    # The users and the popularity of a responder that `recsim train` learned from this log.
    parts = make_split(log, "user", seed=0)
    sessions, who = unseen_sessions(log, parts)
    counted = visible_log(log, parts["train"])
    users = _true_users(truth, make_initial_sessions(log, sessions, counted), who)
    return replace(users, support=fit_support(*counted))


@lru_cache(maxsize=16)
def _new_users(config: TruthConfig) -> Checkpoint:
    """Return the true users of a world; the popularity is that of their first slates."""
    users = max(min(_MAX_PAIRS // config.n_items, _USERS), _FEWEST_USERS)
    log = first_slates(config, users, SLATES)
    truth = truth_of(log)
    assert truth is not None
    initial = make_initial_sessions(log, np.arange(log.n_sessions))
    return _true_users(truth, initial, "new users of a known-truth world")


def _true_users(truth: KnownTruth, initial: SessionLog, who: str) -> Checkpoint:
    catalogue = initial.catalogue
    card = {
        "synthetic": True,
        "responder": {"name": "known_truth"},
        "data": initial.card,
        "catalogue": {"items": len(catalogue), "fingerprint": catalogue.fingerprint()},
        "initial_users": who,
    }
    return Checkpoint(truth, card, initial, hazard_of(truth))


def hazard_of(truth: KnownTruth) -> Hazard:
    """Return when the users of a known-truth world leave."""
    config = truth.config
    return Hazard(tuple(truth.hazard), config.min_slates, max_slates=config.max_slates)


def _ensemble(members: Sequence[Checkpoint]) -> Checkpoint:
    """Return checkpoints of one catalogue as an ensemble, with the hazard of the first.

    Episodes start with the users that all members hold out. Refitted members, which hold out
    nobody, do not count.
    """
    if not members:
        raise InputError("an ensemble needs at least one responder")
    first = members[0]
    for member in members[1:]:
        check_catalogue(member.card, first.initial_sessions.catalogue, "a member of the ensemble")
    initial, initial_users = _ensemble_users(members)
    card = {
        "synthetic": any(member.synthetic for member in members),
        "responder": {"name": "ensemble", "members": [m.card["responder"] for m in members]},
        "data": first.card["data"],
        "catalogue": first.card["catalogue"],
        "initial_users": initial_users,
        "splits": [member.card["split"] for member in members if "split" in member.card],
        "refit": next((member.card["refit"] for member in members if member.refitted), None),
    }
    responder = Ensemble([member.responder for member in members]).eval()
    return Checkpoint(responder, card, initial, first.hazard, first.returns, first.support)


def _ensemble_users(members: Sequence[Checkpoint]) -> tuple[SessionLog, str]:
    """Return the initial sessions of an ensemble, and who the users are, in words."""
    holding = [m for m in members if m.card.get("initial_users", HELD_OUT) in _HELD_OUT]
    if not holding:
        return members[0].initial_sessions, members[0].card["initial_users"]
    initial = holding[0].initial_sessions
    common = np.ones(initial.n_sessions, dtype=bool)
    for member in holding[1:]:
        common &= np.isin(initial.users.ids, member.initial_sessions.users.ids)[initial.user]
    n_holding = len(holding) if common.any() else 1
    if common.any():
        initial = initial.select(common)
    who = f"users held out by {n_holding} of {len(members)} members"
    catalogue = members[0].initial_sessions.catalogue
    return replace(initial, catalogue=catalogue), BY_ALL if n_holding == len(members) else who


def with_items(checkpoint: Checkpoint, catalogue: Catalogue) -> Checkpoint:
    """Return a checkpoint that also handles the (cold) items that `catalogue` appends.

    Content embeddings use their features; others treat them as the unknown item.

    Raises:
        InputError: the catalogue is not the checkpoint's with items appended, or the responder is
            the truth of a known-truth world, which has no other items.
    """
    if not isinstance(catalogue, Catalogue):
        raise InputError(
            f"catalogue must be a Catalogue, such as SessionLog.load(path).catalogue, not "
            f"{catalogue!r}"
        )
    check_catalogue(checkpoint.card, catalogue, "the responder")
    old = checkpoint.initial_sessions.catalogue
    n_new = len(catalogue) - len(old)
    if not n_new:
        return checkpoint
    if isinstance(checkpoint.responder, KnownTruth):
        raise InputError("the true users of a known-truth world only know the items of that world")
    responder = copy.deepcopy(checkpoint.responder)
    responder.extend(catalogue)
    counted = ("shown", "clicked")  # counts of the training log, so 0 for new items
    attributes = {
        name: np.concatenate([column, np.zeros(n_new, column.dtype)])
        for name, column in old.attributes.items()
    } | {name: column for name, column in catalogue.attributes.items() if name not in counted}
    initial_sessions = replace(
        checkpoint.initial_sessions, catalogue=replace(catalogue, attributes=attributes)
    )
    return replace(checkpoint, responder=responder.eval(), initial_sessions=initial_sessions)


def steered(checkpoint: Checkpoint, source: object, steer: Mapping[int, float]) -> Checkpoint:
    """Return a checkpoint whose users have more (or less) of some features of their hidden state.

    Args:
        checkpoint: from `source`.
        source: the folder of an interpreted responder.
        steer: see `responders.interpretation.saving.steering`.

    Raises:
        InputError: the responder has no hidden state, is not read from a folder or was not
            interpreted, or a feature is unknown.
    """
    if not has_hidden(checkpoint.responder):
        name = checkpoint.card["responder"]["name"]
        raise InputError(f"steer needs a responder with a hidden state, which {name} has not")
    if not isinstance(source, (str, Path)):
        raise InputError("steer needs the folder of an interpreted responder: responder=DIR")
    direction = steering(Path(source).expanduser(), steer)
    return replace(checkpoint, responder=Steered(checkpoint.responder, direction).eval())


def open_population(population: str | Path | SessionLog, checkpoint: Checkpoint) -> SessionLog:
    """Return the initial sessions of the users that are simulated.

    Args:
        population: `held_out`, those of the checkpoint (users of the whole log, if it was
            refitted); `cold`, the same users without known features; or a log (or its folder)
            with other users.
        checkpoint: the log must have its catalogue.

    Raises:
        InputError: an unknown name, or a log of another catalogue.
    """
    initial_sessions = checkpoint.initial_sessions
    if isinstance(population, str) and population in ("held_out", "cold"):
        return cold(initial_sessions) if population == "cold" else initial_sessions
    if isinstance(population, (str, Path)):
        if not Path(population).expanduser().exists():
            known = near_matches(str(population), ("held_out", "cold"))
            raise InputError(f"population {str(population)!r} is not a log or a name; {known}")
        population = SessionLog.load(Path(population).expanduser())
    if not isinstance(population, SessionLog):
        raise InputError(f"population must be held_out, cold or a log, not {population!r}")
    check_catalogue(checkpoint.card, population.catalogue, "the responder")
    chosen = select_initial(population, np.arange(population.n_sessions))
    n_expected, n_given = (log.users.features.shape[1] for log in (initial_sessions, chosen))
    if n_expected != n_given:
        raise InputError(f"the population has {n_given} user features, not {n_expected}")
    if len(chosen.catalogue) > len(initial_sessions.catalogue):
        raise InputError("the population's catalogue has new items: give it as catalogue=… too")
    return replace(chosen, catalogue=initial_sessions.catalogue)


def choose_hazard(leaving: bool | Hazard, checkpoint: Checkpoint) -> Hazard | None:
    """Return the hazard: learned (True), None (False: users never leave), or a given one."""
    if isinstance(leaving, Hazard):
        return leaving
    if not isinstance(leaving, bool):
        raise InputError(
            f"leaving is True, False or a Hazard, such as Hazard((0.3,)), not {leaving!r}"
        )
    return checkpoint.hazard if leaving else None


def choose_returns(returns: str | Returns | None, checkpoint: Checkpoint) -> Returns | None:
    """Return how users come back: None (never), "learned", "rule", or given `Returns`.

    Raises:
        InputError: an unknown name, or nothing could be learned from the log.
    """
    if returns is None or isinstance(returns, Returns):
        return returns
    if returns == "rule":
        return Returns.rule()
    if returns != "learned":
        raise InputError(f"returns {returns!r} is unknown: learned, rule, or Returns(…)")
    if checkpoint.returns is None:
        raise InputError(
            "the responder's log has no user with two sessions, so returns cannot be learned from "
            'it: use returns="rule" or Returns(…)'
        )
    return checkpoint.returns
