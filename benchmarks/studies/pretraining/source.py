"""The simulator and the log of a study of pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import names_in
from recsim_env.make import find_responder, make_world, open_responder
from recsim_env.registry import ENVIRONMENTS
from recsim_env.scenarios import find_scenario
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.device import pick_device
from responders.log.split import FRACTIONS, make_split
from responders.models.ensemble import Ensemble
from responders.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class SimulatedUsers:
    """Simulated users, and a log of which a part is held out.

    Args:
        environment: its id, or `any`.
        checkpoint: the responder.
        training: sessions of the training users; simulated users are those.
        test: sessions of the test users.
        device: of worlds.
        shift: which users come more often, see `recsim_env.population.shift_weights`.
        horizon: most slates of a simulated session; None = the environment's.
    """

    environment: str
    checkpoint: Checkpoint
    training: SessionLog
    test: SessionLog
    device: torch.device
    shift: Mapping[str, float] | None = None
    horizon: int | None = None

    def world(self, users: int) -> World:
        """Return a world with that number of simulated users."""
        return make_world(
            self.environment,
            responder=self.checkpoint,
            population=self.training,
            num_users=users,
            shift=self.shift or None,
            horizon=self.horizon,
            one_member=isinstance(self.checkpoint.responder, Ensemble),
            device=self.device,
        )

    @property
    def key(self) -> str:
        """What tells it from others."""
        logs = self.training.fingerprint(), self.test.fingerprint()
        shift = sorted((self.shift or {}).items())
        return repr(
            (self.environment, self.checkpoint.card, logs, str(self.device), shift, self.horizon)
        )


def open_source(
    simulator: str | Path,
    log: str | Path,
    device: str = "auto",
    shift: Mapping[str, float] | None = None,
    horizon: int | None = None,
) -> SimulatedUsers:
    """Return the simulator with a log, split by user.

    The split is the one with which the responder was trained, so that neither it nor a policy
    learns from the test users of its log.

    Args:
        simulator: an environment id, or the folder of a responder; of several, comma-separated, a
            random one answers each session.
        log: folder of the log.
        device: auto, cpu or cuda.
        shift: see `SimulatedUsers`.
        horizon: likewise.

    Raises:
        InputError: there is nothing usable, a responder learned from a split by time, another split
            than the others or all users, or catalogues differ.
    """
    name, checkpoint, split = _open(str(simulator))
    loaded = SessionLog.load(Path(log))
    items = checkpoint.initial_sessions.catalogue
    if items.ids.tolist() != loaded.catalogue.ids.tolist():
        raise InputError(
            f"the users of {simulator} answer {len(items)} items, the log {log} has another "
            f"catalogue ({len(loaded.catalogue)} items): train the responder on this log, or "
            "convert the log with `--catalogue`"
        )
    if split["by"] != "user":
        raise InputError(f"{simulator} was trained on a split by time: train it with --split user")
    parts = make_split(loaded, "user", split["seed"], tuple(split["fractions"]))
    training, test = (loaded.select(parts[part].sessions) for part in ("train", "test"))
    return SimulatedUsers(name, checkpoint, training, test, pick_device(device), shift, horizon)


_DEFAULT_SPLIT = {"by": "user", "seed": 0, "fractions": list(FRACTIONS)}


def _open(simulator: str) -> tuple[str, Checkpoint, dict[str, Any]]:
    """Return the environment's id, the checkpoint (of an ensemble if several), and its split."""
    names = names_in(simulator)
    if not names:
        raise InputError("no simulator is named: give an environment id or a responder's folder")
    if simulator in ENVIRONMENTS:
        members = [open_responder(find_responder(find_scenario(simulator)))]
    else:
        members = [open_responder(name) for name in names]
    if any(member.refitted for member in members):
        raise InputError(f"{simulator} learned from all users of its log: train without --refit")
    splits = [
        {key: (member.card.get("split") or _DEFAULT_SPLIT)[key] for key in _DEFAULT_SPLIT}
        for member in members
    ]
    if any(split != splits[0] for split in splits):
        raise InputError(f"{simulator} were not trained on one split: train them with one --seed")
    name = simulator if simulator in ENVIRONMENTS else "any"
    return name, members[0] if len(members) == 1 else open_responder(members), splits[0]
