"""The simulator and the log of a study of pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from recsim_env.make import find_responder, make_world, open_responder
from recsim_env.registry import ENVIRONMENTS
from recsim_env.scenarios import find_scenario
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.device import pick_device
from responders.log.split import make_split
from responders.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Source:
    """Simulated users, and a log of which a part is held out.

    Args:
        environment: its id, or `any`.
        checkpoint: the responder.
        training: sessions of the training users; simulated users are those.
        test: sessions of the test users.
        device: of worlds.
    """

    environment: str
    checkpoint: Checkpoint
    training: SessionLog
    test: SessionLog
    device: torch.device

    def world(self, users: int) -> World:
        """Return a world with that number of simulated users."""
        return make_world(
            self.environment,
            responder=self.checkpoint,
            population=self.training,
            num_users=users,
            device=self.device,
        )

    @property
    def key(self) -> str:
        """What tells it from others."""
        logs = self.training.fingerprint(), self.test.fingerprint()
        return repr((self.environment, self.checkpoint.card, logs, str(self.device)))


def open_source(simulator: str | Path, log: str | Path, device: str = "auto") -> Source:
    """Return the simulator (an environment id or a responder's folder) with a log, split by user.

    The split has the seed with which the responder was trained, so that neither it nor a policy
    learns from the test users of its log.

    Raises:
        InputError: there is nothing usable, the responder learned from a split by time, or the
            two have different catalogues.
    """
    name, changes = str(simulator), {}
    if name not in ENVIRONMENTS:
        name, changes = "any", {"responder": simulator}
    checkpoint = open_responder(find_responder(find_scenario(name, **changes)))
    loaded = SessionLog.load(Path(log))
    items = checkpoint.initial_sessions.catalogue
    if items.ids.tolist() != loaded.catalogue.ids.tolist():
        raise InputError(
            f"the users of {simulator} answer {len(items)} items, the log {log} has another "
            f"catalogue ({len(loaded.catalogue)} items): train the responder on this log, or "
            "convert the log with `--catalogue`"
        )
    split = checkpoint.card.get("split") or {"by": "user", "seed": 0}
    if split["by"] != "user":
        raise InputError(f"{simulator} was trained on a split by time: train it with --split user")
    parts = make_split(loaded, "user", split["seed"])
    training, test = (loaded.select(parts[part].sessions) for part in ("train", "test"))
    return Source(name, checkpoint, training, test, pick_device(device))
