"""Trained responders on disk: safetensors and JSON, nothing pickled.

DIR/responder.safetensors   the weights
DIR/card.json               description, data, metrics, seed, versions and command
DIR/initial_sessions/       a small session log: the catalogue, and the first slates of the users
                            with whom a simulation starts: held-out ones, or any of the log after
                            refitting
DIR/sae.safetensors         the autoencoder of its hidden states, once `recsim interpret` was run
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from responders.behaviour.leaving import Hazard
from responders.behaviour.returns import Returns
from responders.behaviour.support import Support
from responders.device import in_float32
from responders.errors import InputError, near_matches
from responders.files import new_file, read_json, write_json
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.models.base import Responder
from responders.models.build import rebuild_responder
from responders.models.registry import RESPONDERS
from responders.training.card import Card, check_card

FORMAT = 2
WEIGHTS, CARD, INITIAL = "responder.safetensors", "card.json", "initial_sessions"
AUTOENCODER = "sae.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A trained responder and everything else that a simulation needs.

    Args:
        responder: in eval mode, on the CPU.
        card: the JSON card.
        initial_sessions: a log with the responder's catalogue and the first slates of the users
            that `initial_users` in the card names. The catalogue's attributes `shown` and `clicked`
            count the training log.
        hazard: when users leave.
        returns: whether they come back; None if the log has no returning users.
        support: how common slates are in the log; None if it is not known.
    """

    responder: Responder
    card: dict[str, Any]
    initial_sessions: SessionLog
    hazard: Hazard
    returns: Returns | None = None
    support: Support | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the responder learned from simulated users."""
        return bool(self.card["synthetic"])

    @property
    def refitted(self) -> bool:
        """Whether the responder was trained on every user of its log."""
        return self.card.get("refit") is not None


def save_checkpoint(
    path: Path,
    responder: Responder,
    card: dict[str, Any],
    initial_sessions: SessionLog,
    hazard: Hazard,
    returns: Returns | None = None,
    support: Support | None = None,
) -> None:
    """Write a checkpoint to the folder `path`; the card is written last and marks it complete.

    Args:
        path: the folder, created if missing.
        responder: on any device.
        card: must have `responder`, the description from `build_responder`, and `synthetic`.
        initial_sessions: see `Checkpoint`.
        hazard: see `Checkpoint`.
        returns: see `Checkpoint`.
        support: see `Checkpoint`.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / CARD).unlink(missing_ok=True)
    initial_sessions.save(path / INITIAL, overwrite=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in responder.state_dict().items()}
    save_tensors(path / WEIGHTS, tensors)
    catalogue = initial_sessions.catalogue
    facts = {
        "format": FORMAT,
        "kind": "responder",
        "catalogue": {"items": len(catalogue), "fingerprint": catalogue.fingerprint()},
        "hazard": {
            "by_streak": list(hazard.by_streak),
            "min_slates": hazard.min_slates,
            "weights": list(hazard.weights),
        },
        "returns": None if returns is None else asdict(returns),
        "support": None if support is None else asdict(support),
    }
    write_json(path / CARD, facts | card)


def save_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to the safetensors file `path`, which appears when it is complete.

    Raises:
        OSError: the file cannot be written.
    """
    with new_file(path) as building:
        try:
            save_file(tensors, building, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


@in_float32
def load_responder(path: Path, catalogue: Catalogue | None = None) -> Checkpoint:
    """Load the responder in folder `path`.

    Args:
        path: a folder written by `recsim train`.
        catalogue: the catalogue to use, by default the responder's own. It may append cold items,
            which are represented by their features or as the unknown item.

    Raises:
        InputError: the folder is missing, unfinished or damaged, or the catalogue is another one.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no responder at {path}: train one with `recsim train`")
    if not (path / CARD).exists() and (path / "resume.safetensors").exists():
        raise InputError(
            f"the training in {path} is not finished: continue it with `recsim train … --resume`"
        )
    card = read_json(path / CARD, "responder")
    if card.get("kind") != "responder" or card.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a responder of format {FORMAT}, but of another version: train it again"
        )
    checked = check_card(card, path / CARD)
    name, shape = checked.responder.name, checked.responder.shape
    if name not in RESPONDERS:
        raise InputError(
            f"{path / CARD}: responder {name!r} is unknown; {near_matches(name, RESPONDERS)}"
        )
    initial_sessions = SessionLog.load(path / INITIAL)
    own, stated = initial_sessions.catalogue, checked.catalogue
    if own.fingerprint() != stated.fingerprint or not len(own) == stated.items == shape.n_items:
        raise InputError(
            f"{path / INITIAL} has another catalogue than the responder: it is damaged"
        )
    for name in {"shown", "clicked"} & own.attributes.keys():
        counts = own.attributes[name]
        if counts.dtype.kind not in "iu" or counts.min() < 0:
            raise InputError(f"{path / INITIAL}: {name} of an item is no count: it is damaged")
    n_features = initial_sessions.users.features.shape[1]
    if n_features != shape.n_user_features:
        raise InputError(
            f"{path / INITIAL} has {n_features} user features, the responder reads "
            f"{shape.n_user_features}: it is damaged"
        )
    try:
        responder, hazard, returns, support = _described(checked)
    except InputError as error:
        raise InputError(f"{path / CARD}: {error}") from error
    _load_weights(responder, path / WEIGHTS)
    if catalogue is not None:
        check_catalogue(card, catalogue, str(path))
        if len(catalogue) > responder.shape.n_items:
            responder.extend(catalogue)
    return Checkpoint(responder.eval(), card, initial_sessions, hazard, returns, support)


def _described(card: Card) -> tuple[Responder, Hazard, Returns | None, Support | None]:
    """Return what a checked card describes; the responder's weights are still to be loaded."""
    leaving, returns, support = card.hazard, card.returns, card.support
    return (
        rebuild_responder(card.responder.model_dump()),
        Hazard(tuple(leaving.by_streak), leaving.min_slates, leaving.weights),
        None if returns is None else Returns.from_json(returns.model_dump()),
        None if support is None else Support(tuple(support.repetition)),
    )


def check_catalogue(card: dict[str, Any], catalogue: Catalogue, who: str) -> None:
    """Raise `InputError` unless `catalogue` is the card's own, possibly with items appended."""
    old = card["catalogue"]
    if catalogue.fingerprint(old["items"]) != old["fingerprint"] or len(catalogue) < old["items"]:
        raise InputError(
            f"{who} was trained on another catalogue ({old['items']} items, this one has "
            f"{len(catalogue)}): convert the log with `--catalogue TRAINING_LOG`, which keeps the "
            "item index and appends new items"
        )


def _load_weights(responder: Responder, path: Path) -> None:
    new = responder.state_dict()
    last = {name: int(weight.max()) for name, weight in new.items() if weight.dtype == torch.int64}
    try:
        weights = load_file(path)
        for name in new.keys() & weights.keys():
            if weights[name].dtype != new[name].dtype:
                raise InputError(
                    f"{path}: {name} is {weights[name].dtype}, not {new[name].dtype}: train again"
                )
        responder.load_state_dict(weights)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: the checkpoint is incomplete, train again") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} cannot be read ({reason}): it is damaged or of another version, train again"
        ) from error
    for name, weight in weights.items():
        if name in last and not 0 <= int(weight.min()) <= int(weight.max()) <= last[name]:
            raise InputError(f"{path}: an index in {name} is beyond {last[name]}: train again")
        if weight.is_floating_point() and not weight.isfinite().all():
            raise InputError(f"{path} has NaN or infinite weights in {name}: train again")
