"""What a report compares: responders, and the sessions that none of them was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.evaluate import check_shape
from recsim_env.loading import Source, open_responder, with_items
from responders import EMPTY, InputError, SessionLog
from responders.known_truth.world import KnownTruth, truth_of
from responders.log.batch import Part
from responders.log.split import make_split
from responders.training.checkpoint import Checkpoint
from responders.training.initial_sessions import make_initial_sessions


@dataclass(frozen=True)
class Case:
    """A responder of the report.

    Args:
        name: unique in the report.
        checkpoint: with the log's catalogue.
        folder: of a trained responder; None for the truth of a log and for checkpoints.
        trained_here: whether it was trained on the log.
        digest: of everything that its figures depend on.
    """

    name: str
    checkpoint: Checkpoint
    folder: Path | None
    trained_here: bool
    digest: str

    @property
    def kind(self) -> str:
        """The name of its class of responders."""
        return str(self.checkpoint.card["responder"]["name"])


@dataclass(frozen=True)
class Data:
    """The log and the sessions that count.

    Args:
        log: the log.
        part: the sessions held out by all responders, with their counted slates.
        later: whether they are later ones rather than those of other users.
    """

    log: SessionLog
    part: Part
    later: bool

    @cached_property
    def truth(self) -> KnownTruth | None:
        """The users of a synthetic log."""
        return truth_of(self.log)

    @cached_property
    def rest(self) -> np.ndarray:
        """Sessions that do not count, on which baselines and policies are fitted; may be empty."""
        return np.setdiff1d(np.arange(self.log.n_sessions), self.part.sessions)

    @cached_property
    def known(self) -> np.ndarray:
        """`rest`, or all sessions if every session counts."""
        return self.rest if len(self.rest) else np.arange(self.log.n_sessions)

    @cached_property
    def whole(self) -> np.ndarray:
        """The sessions of the part that count from their first slate to their last."""
        part, length = self.part, self.log.session_length
        whole = (part.first == 0) & (part.end == length[part.sessions])
        return part.sessions[whole] if whole.any() else part.sessions

    @cached_property
    def shown(self) -> np.ndarray:
        """[N] impressions of each item in the whole log."""
        slate = self.log.slate
        return np.bincount(slate[slate != EMPTY], minlength=len(self.log.catalogue))

    @cached_property
    def starts(self) -> SessionLog:
        """The initial sessions of the users of `part`, for the worlds in which policies run."""
        return make_initial_sessions(self.log, self.part.sessions, (self.log, self.known))


def find_cases(sources: Sequence[Source], log: SessionLog) -> list[Case]:
    """Return the responders that `sources` name, each with the catalogue of `log`.

    Raises:
        InputError: no responder, a source that is none, or one that does not fit the log.
    """
    if not sources:
        raise InputError("no responder given: name the folder of a responder or of a synthetic log")
    cases: list[Case] = []
    for source in sources:
        checkpoint = with_items(open_responder(source), log.catalogue)
        folder = Path(source).expanduser() if isinstance(source, (str, Path)) else None
        name = (
            str(checkpoint.card["responder"]["name"]) if folder is None else folder.resolve().name
        )
        check_shape(checkpoint.responder, log, folder or Path(name))
        names = [case.name for case in cases]
        if name in names and folder is not None:
            name = f"{folder.resolve().parent.name}/{name}"
        if name in names or _digest(checkpoint) in {case.digest for case in cases}:
            raise InputError(f"responder {name} is given twice: name each one once")
        here = checkpoint.card["data"].get("fingerprint") == log.fingerprint()
        trained = (
            folder if folder is not None and (folder / "responder.safetensors").exists() else None
        )
        cases.append(Case(name, checkpoint, trained, here, _digest(checkpoint)))
    return cases


def _digest(checkpoint: Checkpoint) -> str:
    """Return a hash of the weights, of what they belong to, and of when users leave."""
    digest = sha256()
    card = {
        k: v for k, v in checkpoint.card.items() if k in ("responder", "data", "split", "splits")
    }
    facts = [card, asdict(checkpoint.hazard), str(checkpoint.returns)]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    digest.update(type(checkpoint.responder).__name__.encode())
    for name, tensor in sorted(checkpoint.responder.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def held_out(cases: Sequence[Case], log: SessionLog, split: str) -> Data:
    """Return the sessions that every responder trained on `log` holds out.

    A responder that was trained on another log, and the truth of a synthetic one, hold out all
    sessions. Every slate of a held-out user counts; of a split by time, those of the test period.

    Args:
        cases: the responders.
        log: the log.
        split: test, or all = every session, whoever was trained on it.

    Raises:
        InputError: a responder was refitted on all users of the log, or nothing is held out by all.
    """
    if split not in ("test", "all"):
        raise InputError(f"split {split!r} is unknown: test or all")
    data = Data(log, Part.of(log, np.arange(log.n_sessions)), False)
    for case in cases if split == "test" else ():
        if not case.trained_here:
            continue
        if case.checkpoint.refitted:
            raise InputError(
                f"{case.name} was refitted on all users of the log, so none are left to test it "
                "on: use --split all, or train without --refit"
            )
        card = case.checkpoint.card
        for trained in card["splits"] if "splits" in card else [card["split"]]:  # an ensemble
            data = _both(data, trained)
    if not len(data.part):
        raise InputError(
            "no session is held out by all responders: give responders trained on one split, or "
            "one at a time"
        )
    return data


def _both(data: Data, split: Mapping[str, Any]) -> Data:
    """Return what `data` and a training with the split of a card both hold out."""
    log = data.log
    own = make_split(log, split["by"], split["seed"], split["fractions"])["test"]
    first = own.first if split["by"] == "time" else np.zeros_like(own.first)
    sessions, mine, its = np.intersect1d(data.part.sessions, own.sessions, return_indices=True)
    part = Part(sessions, np.maximum(data.part.first[mine], first[its]), own.end[its])
    return Data(log, part, data.later or split["by"] == "time")
